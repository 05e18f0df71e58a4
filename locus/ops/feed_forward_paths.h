// The two ways to compute ops/feed_forward.h: fused kernels on the CPU, libtorch everywhere else.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "locus/ops/feed_forward.h"

namespace locus::ops {

struct FeedForwardResult {
  at::Tensor y_ND;
  at::Tensor up_NU;  // pre-activations, for the backward pass
};

struct FeedForwardGradients {
  at::Tensor x_ND, up_EUD, up_bias_EU, down_EDF, down_bias_ED;  // biases: undefined without one
};

FeedForwardResult feed_forward_aten(const at::Tensor& x_ND, const std::vector<int64_t>& counts_E,
                                    const FeedForwardWeights& weights, Activation activation);
FeedForwardGradients feed_forward_backward_aten(const at::Tensor& dy_ND, const at::Tensor& x_ND,
                                                const at::Tensor& up_NU,
                                                const std::vector<int64_t>& counts_E,
                                                const FeedForwardWeights& weights,
                                                Activation activation);

// The same for tensors with CPU kernels (ops/products.h); weights are float32 or bfloat16.
FeedForwardResult feed_forward_cpu(const at::Tensor& x_ND, const std::vector<int64_t>& counts_E,
                                   const FeedForwardWeights& weights, Activation activation);
FeedForwardGradients feed_forward_backward_cpu(const at::Tensor& dy_ND, const at::Tensor& x_ND,
                                               const at::Tensor& up_NU,
                                               const std::vector<int64_t>& counts_E,
                                               const FeedForwardWeights& weights,
                                               Activation activation);

// out[e] = sum of the rows of group e, in the type of bias_EM; undefined where that is.
at::Tensor group_bias_gradient(const at::Tensor& d_NM, const at::Tensor& bias_EM,
                               const std::vector<int64_t>& counts_E);

}  // namespace locus::ops
