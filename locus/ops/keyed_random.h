// Random tensors without generator state: the same numbers on every device and layout
// (base/random.h).
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace locus::ops {

// Uniform in [0, 1), float32 [T, columns]: element (t, c) is a function of key, index_T[t] and c
// alone.
at::Tensor keyed_uniform(uint64_t key, const at::Tensor& index_T, int64_t columns);

// Inverted dropout of x [T, D]: elements are zeroed with probability p, the rest divided by 1 - p.
at::Tensor keyed_dropout(const at::Tensor& x_TD, double p, uint64_t key, const at::Tensor& index_T);

// Normal(0, std) by a generator seeded with `key`, in place: initialisation of parameters.
void keyed_normal_(at::Tensor tensor, double std, uint64_t key);

}  // namespace locus::ops
