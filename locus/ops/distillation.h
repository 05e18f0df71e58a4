// Output projection, cross entropy and the divergence from a teacher in one, in chunks of tokens,
// as ops/cross_entropy.h has it: neither model's logits of a whole batch ever exist.
#pragma once

#include <ATen/core/Tensor.h>

namespace locus::ops {

struct Distillation {
  // Scalar, nats, summed over the tokens with a label; differentiable:
  //   label_share * cross entropy + (1 - label_share) * KL(teacher || student).
  at::Tensor loss_sum;
  at::Tensor cross_entropy_sum;  // the first of the two alone; detached
};

// The teacher's are constants. All hidden states [T, D], weights [V, D]; label_T as in
// linear_cross_entropy(); labels are not smoothed. With label_share 1 it is that function, but for
// logits that hidden states of bfloat16 leave rounded.
Distillation linear_distillation(const at::Tensor& hidden_TD, const at::Tensor& weight_VD,
                                 const at::Tensor& label_T, const at::Tensor& teacher_hidden_TD,
                                 const at::Tensor& teacher_weight_VD, double label_share);

}  // namespace locus::ops
