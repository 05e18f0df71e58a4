// The tensor names that Llama and the mixture-of-experts families after it share.
#pragma once

#include <string>
#include <vector>

#include "locus/model/family.h"
#include "locus/model/layer_config.h"

namespace locus::model {

// What differs among them; each is a part of "model.layers.<i>.<block>...".
struct LlamaNames {
  std::string moe_block = "mlp";  // Mixtral: block_sparse_moe
  std::string gate = "gate_proj", up = "up_proj",
              down = "down_proj";              // Mixtral's experts: w1, w3, w2
  std::string shared_block = "shared_expert";  // DeepSeek: shared_experts
  ExpertLayout layout = ExpertLayout::kEach;
};

// What differs in the keys of config.json: what transformers takes for those that are not there.
struct LlamaDefaults {
  std::string_view key_value_heads = "0";  // as many as query heads
  std::string_view norm_eps = "1e-06";
  double rope_theta = 10000.0;
};

std::vector<TensorSlice> llama_tensors(const ModelConfig& model, const moe::MoeConfig& moe,
                                       const LlamaNames& names);

// The keys of config.json that all of these families have. attention_bias stands for all four
// projections, where the family has it.
void llama_keys(ConfigKeys& keys, Shape& shape, const LlamaDefaults& defaults);
void attention_bias_key(ConfigKeys& keys, ModelConfig& model);

// norm_topk_prob, where the router has such an option. `absent` as in ConfigKeys::value().
void norm_topk_key(ConfigKeys& keys, Shape& shape, std::string_view absent);
// num_experts_per_tok and the coefficient of the balance loss.
void routing_keys(ConfigKeys& keys, Shape& shape, std::string_view top_k, std::string_view coeff);

// True for decoders with RMSNorm, rotary positions, SwiGLU: what all of these families have in
// common.
bool is_llama_like(const ModelConfig& model);
// Heads that share the hidden size, as classes without a head_dim of their own have them.
bool heads_fill_hidden_size(const ModelConfig& model);
bool has_dense_layer(const ModelConfig& model, const moe::MoeConfig& moe);
bool has_moe_layer(const ModelConfig& model, const moe::MoeConfig& moe);

}  // namespace locus::model
