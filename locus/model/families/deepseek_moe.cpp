// DeepSeekMoE (Dai et al., 2024): fine-grained experts beside shared ones, first layer dense.

#include "locus/model/llama_names.h"

namespace locus::model {
namespace {

constexpr Preset kPresets[] = {
    {"deepseek-moe-16b", "DeepSeekMoE 16B, 16.4B parameters, 2.8B active", R"(
[model]
vocab_size = 102400
hidden_size = 2048
num_hidden_layers = 28
num_attention_heads = 16
intermediate_size = 10944
norm_eps = 1e-6
max_position_embeddings = 4096
[moe]
num_experts = 64
intermediate_size = 1408
layers = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27]
shared_expert_intermediate_size = 2816
[moe.router]
type = "top_k"
top_k = 6
aux_loss_coeff = 0.001
aux_loss_scope = "sequence"
[moe.top_k]
norm_topk_prob = false
)"}};

bool holds(const ModelConfig& model, const moe::MoeConfig& moe) {
  return is_uniform(model, moe) && is_llama_like(model) && has_moe_layer(model, moe) &&
         model.qk_norm == "none" && model.attention_bias == model.attention_output_bias &&
         !model.mlp_bias && moe.shared_expert_intermediate_size > 0 && !moe.shared_expert_gate &&
         moe.shared_expert_scope == "all";
}

std::vector<TensorSlice> tensors(const ModelConfig& model, const moe::MoeConfig& moe,
                                 ExpertLayout layout) {
  return llama_tensors(model, moe, {.shared_block = "shared_experts", .layout = layout});
}

// The first layers are dense; the shared experts are as one, as wide as all of them.
void keys(ConfigKeys& keys, Shape& shape) {
  llama_keys(keys, shape, {});
  attention_bias_key(keys, shape.model);
  moe::MoeConfig& moe = shape.moe;
  keys.value("intermediate_size", &shape.model.intermediate_size);
  keys.value("n_routed_experts", &moe.num_experts);
  keys.value("moe_intermediate_size", &moe.intermediate_size);
  int64_t num_dense = 0;
  while (!keys.is_reading() && !is_moe_layer(moe, num_dense)) ++num_dense;
  int64_t num_shared = 1;
  if (!keys.is_reading() && moe.shared_expert_intermediate_size % moe.intermediate_size == 0) {
    num_shared = moe.shared_expert_intermediate_size / moe.intermediate_size;
  }
  keys.value("n_shared_experts", &num_shared);
  keys.value("first_k_dense_replace", &num_dense, "0");
  keys.only("moe_layer_freq", "1");
  keys.only("scoring_func", "\"softmax\"");
  keys.value("num_experts_per_tok", &moe.router.top_k);
  keys.value("aux_loss_alpha", &moe.router.aux_loss_coeff, "0.001");
  norm_topk_key(keys, shape, "false");
  if (!keys.is_reading()) return;
  moe.shared_expert_intermediate_size = num_shared * moe.intermediate_size;
  moe.layers.clear();
  for (int64_t i = num_dense; i < shape.model.num_hidden_layers; ++i) moe.layers.push_back(i);
}

}  // namespace

extern const FamilyEntry kDeepseekMoeFamily;
const FamilyEntry kDeepseekMoeFamily{.name = "deepseek_moe",
                                     .model_type = "deepseek",
                                     .architecture = "DeepseekForCausalLM",
                                     .summary = "DeepSeekMoE: fine-grained and shared experts",
                                     .presets = kPresets,
                                     .holds = holds,
                                     .tensors = tensors,
                                     .keys = keys,
                                     .in_transformers = false};

}  // namespace locus::model
