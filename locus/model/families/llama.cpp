// Llama 2 and 3 (Touvron et al., 2023; Grattafiori et al., 2024): dense.

#include "locus/model/llama_names.h"

namespace locus::model {
namespace {

constexpr Preset kPresets[] = {{"llama-3.2-1b", "Llama 3.2, 1.2B parameters, dense", R"(
[model]
vocab_size = 128256
hidden_size = 2048
num_hidden_layers = 16
num_attention_heads = 32
num_key_value_heads = 8
head_dim = 64
intermediate_size = 8192
max_position_embeddings = 8192
rope_theta = 500000.0
tie_word_embeddings = true
[moe]
num_experts = 0
)"}};

bool holds(const ModelConfig& model, const moe::MoeConfig& moe) {
  return is_llama_like(model) && !has_moe_layer(model, moe) && model.qk_norm == "none" &&
         !model.attention_bias;
}

std::vector<TensorSlice> tensors(const ModelConfig& model, const moe::MoeConfig& moe) {
  return llama_tensors(model, moe, {});
}

}  // namespace

extern const FamilyEntry kLlamaFamily;
const FamilyEntry kLlamaFamily{"llama", "Llama: RMSNorm, RoPE, SwiGLU, dense", kPresets, holds,
                               tensors};

}  // namespace locus::model
