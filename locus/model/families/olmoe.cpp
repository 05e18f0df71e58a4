// OLMoE (Muennighoff et al., 2024): q/k norms over all heads, softmax before top-k, dropless.

#include "locus/model/llama_names.h"

namespace locus::model {
namespace {

constexpr Preset kPresets[] = {
    {"olmoe-1b-7b", "OLMoE 1B-7B, 6.9B parameters, 1.3B active", R"(
[model]
vocab_size = 50304
hidden_size = 2048
num_hidden_layers = 16
num_attention_heads = 16
qk_norm = "full"
max_position_embeddings = 4096
[moe]
num_experts = 64
intermediate_size = 1024
[moe.router]
type = "top_k"
top_k = 8
aux_loss_coeff = 0.01
z_loss_coeff = 0.001
[moe.top_k]
norm_topk_prob = false
)"},
    {"olmoe-tiny", "OLMoE's shape at 17.8M parameters: for one small machine", R"(
[model]
vocab_size = 8192
hidden_size = 256
num_hidden_layers = 4
num_attention_heads = 8
qk_norm = "full"
max_position_embeddings = 1024
[moe]
num_experts = 8
intermediate_size = 512
[moe.router]
type = "top_k"
top_k = 2
[moe.top_k]
norm_topk_prob = false
)"}};

bool holds(const ModelConfig& model, const moe::MoeConfig& moe) {
  return is_uniform(model, moe) && is_llama_like(model) && has_moe_layer(model, moe) &&
         !has_dense_layer(model, moe) && model.qk_norm == "full" && !model.mlp_bias &&
         model.attention_bias == model.attention_output_bias && heads_fill_hidden_size(model) &&
         moe.shared_expert_intermediate_size == 0;
}

std::vector<TensorSlice> tensors(const ModelConfig& model, const moe::MoeConfig& moe,
                                 ExpertLayout layout) {
  return llama_tensors(model, moe, {.layout = layout});
}

void keys(ConfigKeys& keys, Shape& shape) {
  llama_keys(keys, shape, {.norm_eps = "1e-05"});
  attention_bias_key(keys, shape.model);
  keys.value("num_experts", &shape.moe.num_experts, "64");
  keys.value("intermediate_size", &shape.moe.intermediate_size);
  routing_keys(keys, shape, "8", "0.01");
  norm_topk_key(keys, shape, "false");
  keys.only("clip_qkv", "null");
  if (keys.is_reading()) shape.model.qk_norm = "full";
}

}  // namespace

extern const FamilyEntry kOlmoeFamily;
const FamilyEntry kOlmoeFamily{.name = "olmoe",
                               .model_type = "olmoe",
                               .architecture = "OlmoeForCausalLM",
                               .summary = "OLMoE: experts in every layer, q/k norms over all heads",
                               .presets = kPresets,
                               .holds = holds,
                               .tensors = tensors,
                               .keys = keys,
                               .in_transformers = true};

}  // namespace locus::model
