#include "locus/ops/distillation.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "locus/ops/cross_entropy.h"

namespace locus::ops {
namespace {

struct Case {
  at::Tensor hidden_TD, weight_VD, label_T, teacher_TD, teacher_VD;

  explicit Case(int64_t num_tokens, int64_t vocab_size, at::ScalarType type = at::kDouble) {
    auto generator = at::detail::createCPUGenerator(7);
    const auto draw = [&](at::IntArrayRef shape) {
      return at::randn(shape, generator, at::TensorOptions(type));
    };
    hidden_TD = draw({num_tokens, 6}).requires_grad_(true);
    weight_VD = draw({vocab_size, 6}).requires_grad_(true);
    teacher_TD = draw({num_tokens, 6});
    teacher_VD = draw({vocab_size, 6});
    label_T = at::randint(vocab_size, {num_tokens}, generator, at::kLong);
    label_T.slice(0, 0, num_tokens, 4).fill_(-1);
  }

  // With plain differentiable operations.
  at::Tensor reference(double label_share) const {
    const at::Tensor kept = label_T.ge(0).nonzero().squeeze(1);
    const at::Tensor log_p =
        at::log_softmax(at::mm(hidden_TD, weight_VD.t()), 1).index_select(0, kept);
    const at::Tensor log_t =
        at::log_softmax(at::mm(teacher_TD, teacher_VD.t()), 1).index_select(0, kept);
    const at::Tensor entropy = -log_p.gather(1, label_T.index_select(0, kept).unsqueeze(1)).sum();
    const at::Tensor divergence = (log_t.exp() * (log_t - log_p)).sum();
    return label_share * entropy + (1 - label_share) * divergence;
  }
};

TEST(Distillation, IsThatOfPlainOperationsWithItsGradients) {
  for (const double share : {0.0, 0.5, 1.0}) {
    const Case one(37, 23);
    const at::Tensor expected = one.reference(share);
    expected.backward();
    const at::Tensor dhidden = one.hidden_TD.grad().clone(), dweight = one.weight_VD.grad().clone();
    one.hidden_TD.mutable_grad().reset();
    one.weight_VD.mutable_grad().reset();
    const Distillation out = linear_distillation(one.hidden_TD, one.weight_VD, one.label_T,
                                                 one.teacher_TD, one.teacher_VD, share);
    EXPECT_NEAR(out.loss_sum.item<double>(), expected.item<double>(), 1e-10);
    (out.loss_sum * 3).backward();
    EXPECT_TRUE(at::allclose(one.hidden_TD.grad(), dhidden * 3, 1e-10, 1e-12));
    EXPECT_TRUE(at::allclose(one.weight_VD.grad(), dweight * 3, 1e-10, 1e-12));
  }
}

TEST(Distillation, WithLabelsAloneIsTheCrossEntropy) {
  const Case one(50, 19, at::kFloat);
  const Distillation out = linear_distillation(one.hidden_TD, one.weight_VD, one.label_T,
                                               one.teacher_TD, one.teacher_VD, 1.0);
  const double expected =
      linear_cross_entropy(one.hidden_TD, one.weight_VD, one.label_T).loss_sum.item<double>();
  EXPECT_NEAR(out.loss_sum.item<double>(), expected, 1e-4);
  EXPECT_NEAR(out.cross_entropy_sum.item<double>(), expected, 1e-4);
}

TEST(Distillation, OfTheTeacherItselfIsNothing) {
  const Case one(20, 19);
  const Distillation out = linear_distillation(one.teacher_TD.clone().requires_grad_(true),
                                               one.teacher_VD.clone().requires_grad_(true),
                                               one.label_T, one.teacher_TD, one.teacher_VD, 0.0);
  EXPECT_NEAR(out.loss_sum.item<double>(), 0, 1e-12);
}

TEST(Distillation, OfNoLabelIsZeroAndHasAGradient) {
  const Case one(8, 19);
  const Distillation out =
      linear_distillation(one.hidden_TD, one.weight_VD, at::full({8}, -1, at::kLong),
                          one.teacher_TD, one.teacher_VD, 0.5);
  EXPECT_EQ(out.loss_sum.item<double>(), 0);
  out.loss_sum.backward();
  EXPECT_EQ(one.weight_VD.grad().abs().sum().item<double>(), 0);
}

}  // namespace
}  // namespace locus::ops
