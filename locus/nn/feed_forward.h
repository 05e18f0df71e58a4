// The dense feed-forward network of a transformer block: one group of ops/feed_forward.h.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include "locus/ops/feed_forward.h"

namespace locus::nn {

class FeedForward : public torch::nn::Module {
 public:
  FeedForward(int64_t hidden_size, int64_t intermediate_size, ops::Activation activation,
              bool with_bias);
  at::Tensor forward(const at::Tensor& x_TD) const;  // [T, D]

 private:
  ops::Activation activation_;
  at::Tensor up_UD_, up_bias_U_, down_DF_, down_bias_D_;
};

}  // namespace locus::nn
