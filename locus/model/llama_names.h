// The tensor names that Llama and the mixture-of-experts families after it share.
#pragma once

#include <string>
#include <vector>

#include "locus/model/family.h"

namespace locus::model {

// What differs among them; each is a part of "model.layers.<i>.<block>...".
struct LlamaNames {
  std::string moe_block = "mlp";  // Mixtral: block_sparse_moe
  std::string gate = "gate_proj", up = "up_proj",
              down = "down_proj";              // Mixtral's experts: w1, w3, w2
  std::string shared_block = "shared_expert";  // DeepSeek: shared_experts
};

std::vector<TensorSlice> llama_tensors(const ModelConfig& model, const moe::MoeConfig& moe,
                                       const LlamaNames& names);

// True for RMSNorm, rotary positions, SwiGLU without biases: what all of these families have in
// common.
bool is_llama_like(const ModelConfig& model);
bool has_dense_layer(const ModelConfig& model, const moe::MoeConfig& moe);
bool has_moe_layer(const ModelConfig& model, const moe::MoeConfig& moe);

}  // namespace locus::model
