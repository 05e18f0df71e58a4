// Output projection and cross entropy in one, in chunks of tokens: the logits of a whole batch
// never exist. With gradients wanted, the forward pass computes them chunk by chunk while the
// logits are hot and keeps only d(hidden) and d(weight); three matrix products, none repeated.
#pragma once

#include <ATen/core/Tensor.h>

namespace locus::ops {

struct CrossEntropy {
  // float32 scalar, nats, summed over the tokens with a label; differentiable. With label
  // smoothing: of the smoothed labels.
  at::Tensor loss_sum;
  at::Tensor loss_T;     // float32 [T], 0 without a label, never smoothed; detached
  at::Tensor correct_T;  // bool [T], arg max equals the label; undefined unless asked for
};

// hidden_TD: any floating type, the products run in it. weight_VD: float32 (or hidden's type).
// label_T: int64, negative: no loss. Where most tokens have none, as with masked tokens, those that
// have one are computed alone. `want_correct` costs one arg max. With `label_smoothing` s the
// wanted probabilities are 1 - s + s/V for the label and s/V for the others (Szegedy et al., 2016,
// section 7).
CrossEntropy linear_cross_entropy(const at::Tensor& hidden_TD, const at::Tensor& weight_VD,
                                  const at::Tensor& label_T, bool want_correct = false,
                                  double label_smoothing = 0.0);

}  // namespace locus::ops
