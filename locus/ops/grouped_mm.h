// Matrix products over groups of rows: rows lie side by side by group (expert), each group has its
// own matrix. On CUDA bfloat16 tensors this is libtorch's grouped matmul, elsewhere one product per
// group straight into the result. Groups without rows cost nothing.
//
// N rows in all, E groups, counts_E rows of each.
#pragma once

#include <ATen/core/Tensor.h>

#include <span>

namespace locus::ops {

// out[n] = a[n] @ b[group of n]; a [N, K], b [E, K, M] (any strides), result [N, M].
at::Tensor grouped_mm(const at::Tensor& a_NK, const at::Tensor& b_EKM,
                      std::span<const int64_t> counts_E);

// out[e] = sum over the rows n of e of outer(a[n], b[n]); a [N, K], b [N, M], result [E, K, M] in
// `type`; groups without rows are zero.
at::Tensor grouped_outer(const at::Tensor& a_NK, const at::Tensor& b_NM,
                         std::span<const int64_t> counts_E, at::ScalarType type);

}  // namespace locus::ops
