// A linear layer with float32 master weights: the product runs in the type of its input.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

namespace locus::nn {

class Linear : public torch::nn::Module {
 public:
  Linear(int64_t in_features, int64_t out_features, bool with_bias);
  // x [..., in_features] -> [..., out_features]
  at::Tensor forward(const at::Tensor& x) const;

  at::Tensor weight;  // [out_features, in_features]
  at::Tensor bias;    // [out_features], undefined without bias
};

}  // namespace locus::nn
