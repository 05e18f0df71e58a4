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
  return is_llama_like(model) && has_moe_layer(model, moe) && !has_dense_layer(model, moe) &&
         model.qk_norm == "none" && !model.attention_bias &&
         moe.shared_expert_intermediate_size == 0;
}

std::vector<TensorSlice> tensors(const ModelConfig& model, const moe::MoeConfig& moe) {
  return llama_tensors(model, moe,
                       {.moe_block = "block_sparse_moe", .gate = "w1", .up = "w3", .down = "w2"});
}

}  // namespace

extern const FamilyEntry kMixtralFamily;
const FamilyEntry kMixtralFamily{"mixtral",
                                 "Mixtral: experts in every layer, grouped-query attention",
                                 kPresets, holds, tensors};

}  // namespace locus::model
