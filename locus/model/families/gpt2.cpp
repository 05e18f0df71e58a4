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
  return !has_moe_layer(model, moe) && model.hidden_act == "gelu_new" && model.mlp_bias &&
         model.attention_bias && model.attention_output_bias && model.norm_type == "layernorm" &&
         model.position_embedding_type == "learned" && model.qk_norm == "none" &&
         model.tie_word_embeddings && model.kv_heads() == model.num_attention_heads;
}

std::vector<TensorSlice> tensors(const ModelConfig& model, const moe::MoeConfig& /*moe*/) {
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
  return out;
}

}  // namespace

extern const FamilyEntry kGpt2Family;
const FamilyEntry kGpt2Family{"gpt2", "GPT-2: LayerNorm, learned positions, GELU, dense", kPresets,
                              holds, tensors};

}  // namespace locus::model
