// Self-attention, causal or not: multi-head or grouped-query, with optional q/k norms, biases and
// rotary positions, through libtorch's fused scaled-dot-product kernels.
//
// B sequences, S tokens each, D hidden size, H heads, G key/value heads, C head size, L cache
// length.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <memory>
#include <string>
#include <vector>

#include "locus/nn/linear.h"
#include "locus/nn/norm.h"
#include "locus/nn/rope.h"

namespace locus::nn {

struct AttentionConfig {
  int64_t hidden_size = 0;
  int64_t num_heads = 0;
  int64_t num_key_value_heads = 0;
  int64_t head_dim = 0;
  bool qkv_bias = false;
  bool output_bias = false;
  std::string qk_norm =
      "none";  // none | head (Qwen3: over each head) | full (OLMoE: over all heads)
  NormType norm_type = NormType::kRms;
  double norm_eps = 1e-5;
};

// Queries or keys [B, S, heads * C] after `norm`, over all heads or each; null: as they are.
at::Tensor norm_heads(const AttentionConfig& config, Norm* norm, const at::Tensor& x);

// What the heads have seen, side by side, [B, S, H * C]. `mask_B1SL` undefined: all of L, with
// is_causal what is not later.
at::Tensor attend(const AttentionConfig& config, const at::Tensor& q_BHSC, const at::Tensor& k_BGLC,
                  const at::Tensor& v_BGLC, const at::Tensor& mask_B1SL, bool is_causal);

// Keys and values of earlier tokens, for generation.
struct KvCache {
  at::Tensor key_BGLC, value_BGLC;
};

// What attention needs to know of the tokens, the same in every layer.
struct AttentionInput {
  RopeTable rope;         // undefined tensors: learned positions
  at::Tensor mask_B1SL;   // additive, in the compute type; undefined: as is_causal says
  bool is_causal = true;  // no token sees later ones; the mask has it, too
  std::vector<int64_t>
      cache_lengths;  // [B], with a cache: place of the first new token of each row
};

class Attention : public torch::nn::Module {
 public:
  explicit Attention(const AttentionConfig& config);
  at::Tensor forward(const at::Tensor& x_BSD, const AttentionInput& input,
                     KvCache* cache = nullptr);

 private:
  AttentionConfig config_;
  std::shared_ptr<Linear> qkv_proj_, o_proj_;
  std::shared_ptr<Norm> q_norm_, k_norm_;
};

// Of what may be seen, bool [B, S, L], the additive mask [B, 1, S, L]: 0 or -inf.
at::Tensor additive_mask(const at::Tensor& allowed_BSL, at::ScalarType type);

// The additive mask [B, 1, S, S] for packed documents: 0 where token i may see token j (of the same
// document, and with is_causal j <= i), -inf elsewhere. document_BS: int64. Undefined when every
// row is one document: no mask needed.
at::Tensor document_mask(const at::Tensor& document_BS, at::ScalarType type, bool is_causal = true);

}  // namespace locus::nn
