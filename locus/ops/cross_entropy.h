// Output projection and cross entropy in one, in chunks of tokens: the logits of a whole batch
// never exist. With gradients wanted, the forward pass computes them chunk by chunk while the
// logits are hot and keeps only d(hidden) and d(weight); three matrix products, none repeated.
#pragma once

#include <ATen/core/Tensor.h>

namespace locus::ops {

struct CrossEntropy {
  at::Tensor loss_sum;  // float32 scalar, nats, summed over the tokens with a label; differentiable
  at::Tensor loss_T;    // float32 [T], 0 without a label; detached
  at::Tensor correct_T;  // bool [T], arg max equals the label; undefined unless asked for
};

// hidden_TD: any floating type, the products run in it. weight_VD: float32 (or hidden's type).
// label_T: int64, negative: no loss. `want_correct` costs one arg max.
CrossEntropy linear_cross_entropy(const at::Tensor& hidden_TD, const at::Tensor& weight_VD,
                                  const at::Tensor& label_T, bool want_correct = false);

}  // namespace locus::ops
