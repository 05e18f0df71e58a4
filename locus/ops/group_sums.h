// Sums over contiguous groups of channels: grouped average pooling, the gate of LocMoE (Li et al.,
// 2024, arXiv 2401.13920, eq. 2-4), without the matrix that would say the same.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace locus::ops {

// Channels of each group, float32 [num_groups]: num_channels / num_groups, and one more in the
// first num_channels % num_groups of them. Needs 1 <= num_groups <= num_channels.
at::Tensor group_sizes(int64_t num_channels, int64_t num_groups);

// [T, num_groups]: of each row of x_TD, the sums of its groups of channels. Float32, or float64 for
// float64; once differentiable.
at::Tensor group_sums(const at::Tensor& x_TD, int64_t num_groups);

}  // namespace locus::ops
