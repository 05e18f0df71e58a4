// A linear layer's product with master weights: x runs in its own type, the weight is rounded to it
// on the way (not for a handful of rows, where float32 is free) and its gradient comes back in the
// weight's type, never rounded.
#pragma once

#include <ATen/core/Tensor.h>

namespace locus::ops {

// y [..., M] = x [..., K] weight_MK^T + bias_M (undefined: none). Differentiable in all three.
at::Tensor linear(const at::Tensor& x, const at::Tensor& weight_MK, const at::Tensor& bias_M);

}  // namespace locus::ops
