// Qwen3-MoE (Qwen team, 2025): q/k norms per head, normalised top-8 of 128 experts.

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
  return is_llama_like(model) && has_moe_layer(model, moe) && model.qk_norm == "head" &&
         moe.shared_expert_intermediate_size == 0;
}

std::vector<TensorSlice> tensors(const ModelConfig& model, const moe::MoeConfig& moe) {
  return llama_tensors(model, moe, {});
}

}  // namespace

extern const FamilyEntry kQwen3MoeFamily;
const FamilyEntry kQwen3MoeFamily{
    "qwen3_moe", "Qwen3-MoE: q/k norms per head, dense layers allowed", kPresets, holds, tensors};

}  // namespace locus::model
