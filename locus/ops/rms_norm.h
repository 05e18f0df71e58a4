// RMSNorm (Zhang and Sennrich, 2019) in one pass over the rows, with master weights.
#pragma once

#include <ATen/core/Tensor.h>

namespace locus::ops {

// x [..., N] / sqrt(mean(x^2) + eps) * weight_N, computed in float32 (float64 for float64) and
// rounded once. Differentiable in both.
at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight_N, double eps);

}  // namespace locus::ops
