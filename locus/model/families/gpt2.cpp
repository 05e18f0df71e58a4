// GPT-2 (Radford et al., 2019). Its projections are stored transposed ("Conv1D").

#include "locus/model/llama_names.h"

namespace locus::model {
namespace {

constexpr Preset kPresets[] = {{"gpt2", "GPT-2 small, 124M parameters, dense", R"(
[model]
vocab_size = 50257
hidden_size = 768
num_hidden_layers = 12
num_attention_heads = 12
intermediate_size = 3072
hidden_act = "gelu_new"
mlp_bias = true
attention_bias = true
attention_output_bias = true
norm_type = "layernorm"
position_embedding_type = "learned"
max_position_embeddings = 1024
tie_word_embeddings = true
[moe]
num_experts = 0
)"}};

bool holds(const ModelConfig& model, const moe::MoeConfig& moe) {
  const bool gelu = model.hidden_act == "gelu_new" || model.hidden_act == "gelu";
  return is_uniform(model, moe) && model.is_decoder() && !has_moe_layer(model, moe) && gelu &&
         model.mlp_bias && heads_fill_hidden_size(model) && model.attention_bias &&
         model.attention_output_bias && model.norm_type == "layernorm" &&
         model.position_embedding_type == "learned" && model.qk_norm == "none" &&
         model.kv_heads() == model.num_attention_heads;
}

std::vector<TensorSlice> tensors(const ModelConfig& model, const moe::MoeConfig& /*moe*/,
                                 ExpertLayout /*layout*/) {
  std::vector<TensorSlice> out{{"transformer.wte.weight", "embed_tokens"},
                               {"transformer.wpe.weight", "embed_positions"}};
  const auto add = [&out](const std::string& name, const std::string& parameter,
                          bool transposed = false) {
    out.push_back({name, parameter, -1, 0, -1, transposed});
  };
  for (int64_t i = 0; i < model.num_hidden_layers; ++i) {
    const std::string name = "transformer.h." + std::to_string(i);
    const std::string ours = "layers." + std::to_string(i);
    for (const std::string kind : {"weight", "bias"}) {
      const bool matrix = kind == "weight";
      const std::string suffix = matrix ? "" : "_bias";
      add(name + ".ln_1." + kind, ours + ".input_layernorm." + kind);
      add(name + ".attn.c_attn." + kind, ours + ".self_attn.qkv_proj." + kind, matrix);
      add(name + ".attn.c_proj." + kind, ours + ".self_attn.o_proj." + kind, matrix);
      add(name + ".ln_2." + kind, ours + ".post_attention_layernorm." + kind);
      add(name + ".mlp.c_fc." + kind, ours + ".mlp.up_proj" + suffix, matrix);
      add(name + ".mlp.c_proj." + kind, ours + ".mlp.down_proj" + suffix, matrix);
    }
  }
  add("transformer.ln_f.weight", "norm.weight");
  add("transformer.ln_f.bias", "norm.bias");
  if (!model.tie_word_embeddings) add("lm_head.weight", "lm_head");
  return out;
}

void keys(ConfigKeys& keys, Shape& shape) {
  ModelConfig& model = shape.model;
  if (keys.is_reading()) {
    model.mlp_bias = model.attention_bias = model.attention_output_bias = true;
    model.norm_type = "layernorm";
    model.position_embedding_type = "learned";
  }
  keys.value("vocab_size", &model.vocab_size);
  keys.value("n_embd", &model.hidden_size);
  keys.value("n_layer", &model.num_hidden_layers);
  keys.value("n_head", &model.num_attention_heads);
  keys.value("n_positions", &model.max_position_embeddings);
  keys.value("n_inner", &model.intermediate_size, std::to_string(4 * model.hidden_size));
  keys.value("activation_function", &model.hidden_act, "\"gelu_new\"");
  keys.value("layer_norm_epsilon", &model.norm_eps, "1e-05");
  keys.value("initializer_range", &model.initializer_range, "0.02");
  keys.value("tie_word_embeddings", &model.tie_word_embeddings, "true");
  keys.value("resid_pdrop", &model.hidden_dropout, "0.1");
  keys.value("embd_pdrop", &model.embedding_dropout, "0.1");
  keys.attention_dropout("attn_pdrop", 0.1);
  keys.only("scale_attn_weights", "true");
  keys.only("scale_attn_by_inverse_layer_idx", "false");
  keys.only("add_cross_attention", "false");
  keys.unused("reorder_and_upcast_attn");  // another order of roundings
  keys.unused("n_ctx");
  for (const char* key : {"summary_type", "summary_use_proj", "summary_activation",
                          "summary_first_dropout", "summary_proj_to_labels"}) {
    keys.unused(key);  // of classifiers
  }
}

}  // namespace

extern const FamilyEntry kGpt2Family;
const FamilyEntry kGpt2Family{.name = "gpt2",
                              .model_type = "gpt2",
                              .architecture = "GPT2LMHeadModel",
                              .summary = "GPT-2: LayerNorm, learned positions, GELU, dense",
                              .presets = kPresets,
                              .holds = holds,
                              .tensors = tensors,
                              .keys = keys,
                              .in_transformers = true};

}  // namespace locus::model
