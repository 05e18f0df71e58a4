#include "locus/model/llama_names.h"

#include <algorithm>
#include <cmath>

#include "locus/moe/router.h"

namespace locus::model {
namespace {

using Slices = std::vector<TensorSlice>;

// "x.weight" and, for LayerNorm, "x.bias".
void add_norm(Slices& out, const ModelConfig& model, const std::string& name,
              const std::string& ours) {
  out.push_back({name + ".weight", ours + ".weight"});
  if (model.norm_type == "layernorm") out.push_back({name + ".bias", ours + ".bias"});
}

// What follows the projections of queries, keys and values.
void add_attention_ends(Slices& out, const ModelConfig& model, const std::string& name,
                        const std::string& ours) {
  out.push_back({name + ".o_proj.weight", ours + ".o_proj.weight"});
  if (model.attention_output_bias) out.push_back({name + ".o_proj.bias", ours + ".o_proj.bias"});
  if (model.qk_norm != "none") {
    add_norm(out, model, name + ".q_norm", ours + ".q_norm");
    add_norm(out, model, name + ".k_norm", ours + ".k_norm");
  }
}

// kv_heads: key/value heads, each with its query heads.
void add_attention(Slices& out, const ModelConfig& model, int64_t kv_heads, const std::string& name,
                   const std::string& ours) {
  const int64_t kv = kv_heads * model.head_size();
  const int64_t q = kv * model.heads_per_group();
  for (const std::string kind : {"weight", "bias"}) {
    if (kind == "bias" && !model.attention_bias) continue;
    out.push_back({name + ".q_proj." + kind, ours + ".qkv_proj." + kind, -1, 0, q});
    out.push_back({name + ".k_proj." + kind, ours + ".qkv_proj." + kind, -1, q, kv});
    out.push_back({name + ".v_proj." + kind, ours + ".qkv_proj." + kind, -1, q + kv, kv});
  }
  add_attention_ends(out, model, name, ours);
}

void add_cross_attention(Slices& out, const ModelConfig& model, int64_t kv_heads,
                         const std::string& name, const std::string& ours) {
  const int64_t kv = kv_heads * model.head_size();
  for (const std::string kind : {"weight", "bias"}) {
    if (kind == "bias" && !model.attention_bias) continue;
    out.push_back({name + ".q_proj." + kind, ours + ".q_proj." + kind});
    out.push_back({name + ".k_proj." + kind, ours + ".kv_proj." + kind, -1, 0, kv});
    out.push_back({name + ".v_proj." + kind, ours + ".kv_proj." + kind, -1, kv, kv});
  }
  add_attention_ends(out, model, name, ours);
}

// A feed-forward network, or the expert-th of several: gate, up and down projection.
void add_feed_forward(Slices& out, const ModelConfig& model, int64_t width, const std::string& name,
                      const std::string& ours, int64_t expert, const LlamaNames& names) {
  const bool gated = model.hidden_act == "swiglu";
  const auto add = [&](const std::string& part, const std::string& parameter, int64_t begin,
                       int64_t rows) {
    out.push_back({name + "." + part + ".weight", ours + "." + parameter, expert, begin, rows});
    if (model.mlp_bias) {
      out.push_back(
          {name + "." + part + ".bias", ours + "." + parameter + "_bias", expert, begin, rows});
    }
  };
  if (gated) add(names.gate, "up_proj", 0, width);
  add(names.up, "up_proj", gated ? width : 0, width);
  add(names.down, "down_proj", 0, model.hidden_size);
}

void add_moe(Slices& out, const ModelConfig& model, const moe::MoeConfig& moe,
             const std::string& name, const std::string& ours, const LlamaNames& names) {
  for (const moe::RouterParameter& one :
       moe::find_router(moe.router.type)
           .parameters({moe.num_experts, model.hidden_size, model.vocab_size})) {
    const std::string parameter = ours + ".router." + one.name;
    // The gate of every public family; what else a router has goes by our own names.
    out.push_back({one.name == "weight" ? name + ".gate.weight" : parameter, parameter});
  }
  const bool fused = names.layout == ExpertLayout::kFused;
  if (fused) {
    out.push_back({name + ".experts.gate_up_proj", ours + ".experts.up_proj"});
    out.push_back({name + ".experts.down_proj", ours + ".experts.down_proj"});
  }
  for (int64_t e = 0; !fused && e < moe.num_experts; ++e) {
    add_feed_forward(out, model, moe.intermediate_size, name + ".experts." + std::to_string(e),
                     ours + ".experts", e, names);
  }
  if (moe.shared_expert_intermediate_size > 0) {
    add_feed_forward(out, model, moe.shared_expert_intermediate_size,
                     name + "." + names.shared_block, ours + ".shared_expert", -1, {});
    if (moe.shared_expert_gate) {
      out.push_back({name + ".shared_expert_gate.weight", ours + ".shared_expert_gate.weight"});
    }
  }
}

}  // namespace

std::vector<TensorSlice> llama_tensors(const ModelConfig& model, const moe::MoeConfig& moe,
                                       const LlamaNames& names) {
  Slices out{{"model.embed_tokens.weight", "embed_tokens"}};
  if (model.position_embedding_type == "learned") {
    out.push_back({"model.embed_positions.weight", "embed_positions"});
  }
  for (int64_t i = 0; i < model.num_hidden_layers; ++i) {
    const std::string name = "model.layers." + std::to_string(i);
    const std::string ours = "layers." + std::to_string(i);
    const LayerConfig layer = layer_config(model, moe, i);
    if (layer.has_attention) {
      add_norm(out, model, name + ".input_layernorm", ours + ".input_layernorm");
      add_attention(out, model, layer.model.num_key_value_heads, name + ".self_attn",
                    ours + ".self_attn");
    }
    if (layer.has_cross_attention) {
      add_norm(out, model, name + ".cross_attention_layernorm",
               ours + ".cross_attention_layernorm");
      add_cross_attention(out, model, layer.cross_kv_heads, name + ".cross_attn",
                          ours + ".cross_attn");
    }
    if (!layer.has_feed_forward) continue;
    add_norm(out, model, name + ".post_attention_layernorm", ours + ".post_attention_layernorm");
    if (layer.has_experts()) {
      add_moe(out, model, layer.moe, name + "." + names.moe_block, ours + ".moe", names);
    } else {
      add_feed_forward(out, model, layer.model.intermediate_size, name + ".mlp", ours + ".mlp", -1,
                       {});
    }
  }
  if (model.is_encoder_decoder()) add_norm(out, model, "model.encoder_norm", "encoder_norm");
  add_norm(out, model, "model.norm", "norm");
  if (!model.tie_word_embeddings) out.push_back({"lm_head.weight", "lm_head"});
  return out;
}

void llama_keys(ConfigKeys& keys, Shape& shape, const LlamaDefaults& defaults) {
  ModelConfig& model = shape.model;
  keys.value("vocab_size", &model.vocab_size);
  keys.value("hidden_size", &model.hidden_size);
  keys.value("num_hidden_layers", &model.num_hidden_layers);
  keys.value("num_attention_heads", &model.num_attention_heads);
  keys.value("num_key_value_heads", &model.num_key_value_heads, defaults.key_value_heads);
  keys.value("head_dim", &model.head_dim, "0");
  keys.value("max_position_embeddings", &model.max_position_embeddings);
  keys.value("rms_norm_eps", &model.norm_eps, defaults.norm_eps);
  keys.value("initializer_range", &model.initializer_range, "0.02");
  keys.value("tie_word_embeddings", &model.tie_word_embeddings, "false");
  keys.only("hidden_act", "\"silu\"");
  keys.attention_dropout("attention_dropout", 0.0);
  keys.rope(model, defaults.rope_theta);
}

void attention_bias_key(ConfigKeys& keys, ModelConfig& model) {
  keys.value("attention_bias", &model.attention_bias, "false");
  if (keys.is_reading()) model.attention_output_bias = model.attention_bias;
}

void norm_topk_key(ConfigKeys& keys, Shape& shape, std::string_view absent) {
  bool none = false;  // a router without the option: its weights are what its scores are
  FieldPointer option = &none;
  for (const Field& field : shape.router_options.fields()) {
    if (field.path == "norm_topk_prob") option = field.value;
  }
  keys.value("norm_topk_prob", option, absent);
}

void routing_keys(ConfigKeys& keys, Shape& shape, std::string_view top_k, std::string_view coeff) {
  moe::RouterConfig& router = shape.moe.router;
  if (!keys.is_reading()) {
    const double asked = moe::find_router(router.type).experts_per_token(shape.moe);
    router.top_k = std::max<int64_t>(1, std::llround(asked));
  }
  keys.value("num_experts_per_tok", &router.top_k, top_k);
  keys.value("router_aux_loss_coef", &router.aux_loss_coeff, coeff);
}

bool is_llama_like(const ModelConfig& model) {
  return model.is_decoder() && model.norm_type == "rmsnorm" &&
         model.position_embedding_type == "rope" && model.hidden_act == "swiglu";
}

bool heads_fill_hidden_size(const ModelConfig& model) {
  return model.num_attention_heads * model.head_size() == model.hidden_size;
}

bool has_moe_layer(const ModelConfig& model, const moe::MoeConfig& moe) {
  for (int64_t i = 0; i < model.num_hidden_layers; ++i) {
    if (is_moe_layer(moe, i)) return true;
  }
  return false;
}

bool has_dense_layer(const ModelConfig& model, const moe::MoeConfig& moe) {
  for (int64_t i = 0; i < model.num_hidden_layers; ++i) {
    if (!is_moe_layer(moe, i)) return true;
  }
  return false;
}

}  // namespace locus::model
