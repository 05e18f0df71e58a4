// Qwen3-MoE (Qwen team, 2025): q/k norms per head, normalised top-8 of 128 experts.

#include <algorithm>

#include "locus/model/llama_names.h"

namespace locus::model {
namespace {

constexpr Preset kPresets[] = {{"qwen3-30b-a3b", "Qwen3 30B-A3B, 30.5B parameters, 3.3B active", R"(
[model]
vocab_size = 151936
hidden_size = 2048
num_hidden_layers = 48
num_attention_heads = 32
num_key_value_heads = 4
head_dim = 128
qk_norm = "head"
norm_eps = 1e-6
max_position_embeddings = 40960
rope_theta = 1000000.0
intermediate_size = 6144
[moe]
num_experts = 128
intermediate_size = 768
[moe.router]
type = "top_k"
top_k = 8
aux_loss_coeff = 0.001
[moe.top_k]
norm_topk_prob = true
)"}};

bool holds(const ModelConfig& model, const moe::MoeConfig& moe) {
  return is_uniform(model, moe) && is_llama_like(model) && has_moe_layer(model, moe) &&
         model.qk_norm == "head" && !model.mlp_bias &&
         model.attention_bias == model.attention_output_bias &&
         moe.shared_expert_intermediate_size == 0;
}

std::vector<TensorSlice> tensors(const ModelConfig& model, const moe::MoeConfig& moe,
                                 ExpertLayout layout) {
  return llama_tensors(model, moe, {.layout = layout});
}

// Layers with experts: each `step`-th that mlp_only_layers does not name.
void layer_keys(ConfigKeys& keys, Shape& shape) {
  int64_t step = 1;
  std::vector<int64_t> dense;
  for (int64_t i = 0; !keys.is_reading() && i < shape.model.num_hidden_layers; ++i) {
    if (!is_moe_layer(shape.moe, i)) dense.push_back(i);
  }
  keys.value("decoder_sparse_step", &step, "1");
  keys.value("mlp_only_layers", &dense, "[]");
  if (!keys.is_reading()) return;
  shape.moe.layers.clear();
  for (int64_t i = 0; i < shape.model.num_hidden_layers; ++i) {
    const bool named = std::find(dense.begin(), dense.end(), i) != dense.end();
    if (!named && step > 0 && (i + 1) % step == 0) shape.moe.layers.push_back(i);
  }
  if (shape.moe.layers.empty()) shape.moe.num_experts = 0;
}

void keys(ConfigKeys& keys, Shape& shape) {
  llama_keys(keys, shape, {.key_value_heads = "4"});
  attention_bias_key(keys, shape.model);
  keys.also_named("num_experts", "num_local_experts");  // transformers 5
  keys.value("num_experts", &shape.moe.num_experts, "128");
  keys.value("intermediate_size", &shape.model.intermediate_size);
  keys.value("moe_intermediate_size", &shape.moe.intermediate_size, "768");
  routing_keys(keys, shape, "8", "0.001");
  norm_topk_key(keys, shape, "false");
  keys.only("use_sliding_window", "false");
  keys.unused("sliding_window");  // without the former
  keys.unused("max_window_layers");
  layer_keys(keys, shape);
  if (keys.is_reading()) shape.model.qk_norm = "head";
}

}  // namespace

extern const FamilyEntry kQwen3MoeFamily;
const FamilyEntry kQwen3MoeFamily{.name = "qwen3_moe",
                                  .model_type = "qwen3_moe",
                                  .architecture = "Qwen3MoeForCausalLM",
                                  .summary = "Qwen3-MoE: q/k norms per head, dense layers allowed",
                                  .presets = kPresets,
                                  .holds = holds,
                                  .tensors = tensors,
                                  .keys = keys,
                                  .in_transformers = true};

}  // namespace locus::model
