// From rows of tokens to heads, rotated on the way.
//
// B sequences, S tokens, H heads, C head size.
#pragma once

#include <ATen/core/Tensor.h>

namespace locus::ops {

// x [B, S, H * C], rows at any distance -> [B, H, S, C]. cos, sin: float32 [B, S, C /
// 2], the angles of each token; undefined: no rotation. Hugging Face's layout: the two halves of a
// head rotate together, (x1, x2) -> (x1 cos - x2 sin, x2 cos + x1 sin). Differentiable in x.
at::Tensor to_heads(const at::Tensor& x_BSD, int64_t num_heads, const at::Tensor& cos,
                    const at::Tensor& sin);

}  // namespace locus::ops
