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
  return is_llama_like(model) && has_moe_layer(model, moe) && model.qk_norm == "none" &&
         !model.attention_bias && moe.shared_expert_intermediate_size > 0 &&
         !moe.shared_expert_gate;
}

std::vector<TensorSlice> tensors(const ModelConfig& model, const moe::MoeConfig& moe) {
  return llama_tensors(model, moe, {.shared_block = "shared_experts"});
}

}  // namespace

extern const FamilyEntry kDeepseekMoeFamily;
const FamilyEntry kDeepseekMoeFamily{"deepseek_moe", "DeepSeekMoE: fine-grained and shared experts",
                                     kPresets, holds, tensors};

}  // namespace locus::model
