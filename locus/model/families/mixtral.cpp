// Mixtral (Jiang et al., 2024): softmax over the chosen two of eight experts, in every layer.

#include "locus/model/llama_names.h"

namespace locus::model {
namespace {

constexpr Preset kPresets[] = {{"mixtral-8x7b", "Mixtral 8x7B, 46.7B parameters, 12.9B active", R"(
[model]
vocab_size = 32000
hidden_size = 4096
num_hidden_layers = 32
num_attention_heads = 32
num_key_value_heads = 8
max_position_embeddings = 32768
rope_theta = 1000000.0
[moe]
num_experts = 8
intermediate_size = 14336
[moe.router]
type = "top_k"
top_k = 2
[moe.top_k]
score_before_topk = false
)"}};

bool holds(const ModelConfig& model, const moe::MoeConfig& moe) {
  return is_uniform(model, moe) && is_llama_like(model) && has_moe_layer(model, moe) &&
         !has_dense_layer(model, moe) && model.qk_norm == "none" && !model.attention_bias &&
         !model.attention_output_bias && !model.mlp_bias &&
         moe.shared_expert_intermediate_size == 0;
}

std::vector<TensorSlice> tensors(const ModelConfig& model, const moe::MoeConfig& moe,
                                 ExpertLayout layout) {
  if (layout == ExpertLayout::kFused) return llama_tensors(model, moe, {.layout = layout});
  return llama_tensors(model, moe,
                       {.moe_block = "block_sparse_moe", .gate = "w1", .up = "w3", .down = "w2"});
}

void keys(ConfigKeys& keys, Shape& shape) {
  llama_keys(keys, shape, {.key_value_heads = "8", .norm_eps = "1e-05", .rope_theta = 1e6});
  keys.value("num_local_experts", &shape.moe.num_experts, "8");
  keys.value("intermediate_size", &shape.moe.intermediate_size);
  routing_keys(keys, shape, "2", "0.001");
  keys.only("router_jitter_noise", "0.0");
  keys.only("sliding_window", "null");
  if (!keys.is_reading()) return;
  for (const Field& field : shape.router_options.fields()) {
    if (field.path == "score_before_topk") *std::get<bool*>(field.value) = false;
  }
}

}  // namespace

extern const FamilyEntry kMixtralFamily;
const FamilyEntry kMixtralFamily{
    .name = "mixtral",
    .model_type = "mixtral",
    .architecture = "MixtralForCausalLM",
    .summary = "Mixtral: experts in every layer, grouped-query attention",
    .presets = kPresets,
    .holds = holds,
    .tensors = tensors,
    .keys = keys,
    .in_transformers = true};

}  // namespace locus::model
