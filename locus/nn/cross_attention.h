// Attention of one text's tokens to what an encoder made of another text (Vaswani et al., 2017,
// section 3.2.3). No positions: both sides carry theirs.
//
// B sequences, S tokens each that attend to L, D hidden size, G key/value heads, C head size.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <memory>

#include "locus/nn/attention.h"

namespace locus::nn {

class CrossAttention : public torch::nn::Module {
 public:
  // config.qk_norm holds here, too.
  explicit CrossAttention(const AttentionConfig& config);

  // Keys and values of the other text, for any number of calls of forward().
  KvCache read(const at::Tensor& memory_BLD);
  // mask_B1SL: additive; undefined: every token sees all of `memory`.
  at::Tensor forward(const at::Tensor& x_BSD, const KvCache& memory, const at::Tensor& mask_B1SL);

 private:
  AttentionConfig config_;
  std::shared_ptr<Linear> q_proj_, kv_proj_, o_proj_;
  std::shared_ptr<Norm> q_norm_, k_norm_;
};

// The mask for packed pairs: token i sees the tokens of the other text's document of the same
// number. One that has none there, padding, sees everything: a softmax over nothing is NaN.
at::Tensor pair_mask(const at::Tensor& document_BS, const at::Tensor& other_document_BL,
                     at::ScalarType type);

}  // namespace locus::nn
