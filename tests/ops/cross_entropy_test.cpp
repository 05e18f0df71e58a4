#include "locus/ops/cross_entropy.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/reference/cross_entropy_reference.h"
#include "tests/support/tensors.h"

namespace locus::ops {
namespace {

using test::distance;
using test::expect_gradients;
using test::integers;
using test::matrix_of;
using test::random_leaf;
using test::random_tensor;
using test::row_of;

void expect_equal_to_reference(const at::Tensor& hidden, const at::Tensor& weight,
                               const std::vector<int64_t>& label, double tolerance) {
  const CrossEntropy got = linear_cross_entropy(hidden, weight, integers(label), true);
  const auto want = reference::cross_entropy(matrix_of(hidden), matrix_of(weight), label);
  EXPECT_NEAR(got.loss_sum.item<double>(), want.sum, tolerance * (1 + want.sum));
  EXPECT_LT(distance(got.loss_T, at::tensor(want.loss, at::kDouble)), tolerance);
  for (size_t t = 0; t < label.size(); ++t) {
    EXPECT_EQ(got.correct_T[static_cast<int64_t>(t)].item<bool>(), want.correct[t])
        << "token " << t;
  }
  got.loss_sum.backward();
  EXPECT_LT(distance(hidden.grad(), want.dhidden), tolerance);
  EXPECT_LT(distance(weight.grad(), want.dweight), tolerance);
}

TEST(LinearCrossEntropy, EqualsLoopsWithIgnoredLabels) {
  const std::vector<int64_t> label{3, -1, 0, 10, -100, 5};
  expect_equal_to_reference(random_leaf({6, 4}, 1), random_leaf({11, 4}, 2), label, 1e-12);
  expect_equal_to_reference(random_leaf({6, 4}, 1, at::kFloat), random_leaf({11, 4}, 2, at::kFloat),
                            label, 1e-5);
}

TEST(LinearCrossEntropy, CountsHitsAmongLikelyTokensOnly) {
  const at::Tensor hidden = at::eye(3, at::kFloat) * 9;
  const CrossEntropy out =
      linear_cross_entropy(hidden, at::eye(3, at::kFloat), integers({0, 2, -1}), true);
  EXPECT_TRUE(at::equal(out.correct_T, at::tensor({1, 0, 0}).to(at::kBool)));
  EXPECT_FALSE(linear_cross_entropy(hidden, hidden, integers({0, 2, -1})).correct_T.defined());
}

TEST(LinearCrossEntropy, EqualsLoopsOverSeveralChunks) {
  // A chunk holds 4M logits: 4 tokens here, so 3 chunks, the last one short.
  const int64_t vocab = int64_t{1} << 20;
  std::vector<int64_t> label(10);
  for (size_t t = 0; t < label.size(); ++t)
    label[t] = t % 4 == 1 ? -1 : static_cast<int64_t>(99999 * t);
  expect_equal_to_reference(random_leaf({10, 2}, 3), random_leaf({vocab, 2}, 4), label, 1e-11);
}

TEST(LinearCrossEntropy, HasTheGradientsOfTheFiniteDifferences) {
  const at::Tensor hidden = random_leaf({5, 4}, 5), weight = random_leaf({9, 4}, 6);
  expect_gradients(
      {hidden, weight},
      [&] {
        return linear_cross_entropy(hidden, weight, integers({8, 0, -1, 3, 3})).loss_sum;
      },
      1e-8);
}

TEST(LinearCrossEntropy, SmoothsLabelsAsTorchDoes) {
  const std::vector<int64_t> label{3, -1, 0, 10, -100, 5};
  for (const auto type : {at::kDouble, at::kFloat}) {
    const at::Tensor hidden = random_leaf({6, 4}, 21, type),
                     weight = random_leaf({11, 4}, 22, type);
    const CrossEntropy got = linear_cross_entropy(hidden, weight, integers(label), true, 0.2);
    got.loss_sum.backward();
    const at::Tensor hidden2 = random_leaf({6, 4}, 21), weight2 = random_leaf({11, 4}, 22);
    const at::Tensor want = at::cross_entropy_loss(
        at::mm(hidden2, weight2.t()), integers(label).masked_fill(integers(label).lt(0), -1), {},
        at::Reduction::Sum, -1, 0.2);
    want.backward();
    const double tolerance = type == at::kDouble ? 1e-12 : 1e-5;
    EXPECT_LT(distance(got.loss_sum, want), tolerance);
    EXPECT_LT(distance(hidden.grad(), hidden2.grad()), tolerance);
    EXPECT_LT(distance(weight.grad(), weight2.grad()), tolerance);
    const CrossEntropy plain = linear_cross_entropy(hidden, weight, integers(label));
    EXPECT_TRUE(at::equal(got.loss_T, plain.loss_T)) << "losses are told without it";
  }
}

// Chunks hold 4M logits: three of them here, the last one short; and few labels.
TEST(LinearCrossEntropy, SmoothsLabelsOverChunksAndOfFewTokens) {
  const int64_t vocab = int64_t{1} << 19;
  for (const int64_t every : {1, 3}) {
    std::vector<int64_t> label(20, -1);
    for (size_t t = 0; t < label.size(); t += static_cast<size_t>(every)) {
      label[t] = static_cast<int64_t>(9999 * t);
    }
    const at::Tensor hidden = random_leaf({20, 2}, 25, at::kFloat),
                     weight = random_leaf({vocab, 2}, 26, at::kFloat);
    const CrossEntropy got = linear_cross_entropy(hidden, weight, integers(label), false, 0.3);
    got.loss_sum.backward();
    const at::Tensor hidden2 = random_leaf({20, 2}, 25), weight2 = random_leaf({vocab, 2}, 26);
    const at::Tensor want = at::cross_entropy_loss(at::mm(hidden2, weight2.t()), integers(label),
                                                   {}, at::Reduction::Sum, -1, 0.3);
    want.backward();
    EXPECT_LT(distance(got.loss_sum, want), 1e-4) << every;
    EXPECT_LT(distance(hidden.grad(), hidden2.grad()), 1e-4) << every;
    EXPECT_LT(distance(weight.grad(), weight2.grad()), 1e-4) << every;
  }
}

TEST(LinearCrossEntropy, OfFewLabelsIsThatOfTheirTokens) {
  std::vector<int64_t> label(20, -1);
  label[3] = 7;
  label[11] = 0;
  label[19] = 10;
  expect_equal_to_reference(random_leaf({20, 4}, 23), random_leaf({11, 4}, 24), label, 1e-12);
  expect_equal_to_reference(random_leaf({20, 4}, 23, at::kFloat),
                            random_leaf({11, 4}, 24, at::kFloat), label, 1e-5);
}

TEST(LinearCrossEntropy, ScalesItsGradientByThatOfTheLoss) {
  const at::Tensor hidden = random_leaf({5, 4}, 7), weight = random_leaf({9, 4}, 8);
  const at::Tensor scale = random_leaf({}, 9);
  expect_gradients({hidden, weight, scale}, [&] {
    const at::Tensor sum =
        linear_cross_entropy(hidden, weight, integers({8, 0, -1, 3, 3})).loss_sum;
    return (sum / 4 * scale).square();
  });
}

TEST(LinearCrossEntropy, IsZeroWithZeroGradientsWhenAllLabelsAreIgnored) {
  const at::Tensor hidden = random_leaf({3, 4}, 10, at::kFloat),
                   weight = random_leaf({9, 4}, 11, at::kFloat);
  const CrossEntropy out = linear_cross_entropy(hidden, weight, integers({-1, -1, -1}), true);
  EXPECT_EQ(out.loss_sum.item<float>(), 0);
  EXPECT_FALSE(out.correct_T.any().item<bool>());
  out.loss_sum.backward();
  EXPECT_EQ(hidden.grad().abs().sum().item<float>(), 0);
  EXPECT_EQ(weight.grad().abs().sum().item<float>(), 0);
}

TEST(LinearCrossEntropy, OfNoTokensIsZero) {
  const at::Tensor hidden = random_leaf({0, 4}, 12), weight = random_leaf({9, 4}, 13);
  const CrossEntropy out = linear_cross_entropy(hidden, weight, at::empty({0}, at::kLong), true);
  EXPECT_EQ(out.loss_sum.item<double>(), 0);
  out.loss_sum.backward();
  EXPECT_EQ(weight.grad().abs().sum().item<double>(), 0);
}

TEST(LinearCrossEntropy, SurvivesHugeLogits) {
  const at::Tensor hidden = at::full({2, 1}, 1e4, at::kFloat).requires_grad_(true);
  const at::Tensor weight = at::tensor({1.0, -1.0, 0.5}).to(at::kFloat).unsqueeze(1);
  const CrossEntropy out = linear_cross_entropy(hidden, weight, integers({0, 1}));
  EXPECT_EQ(row_of(out.loss_T), (reference::Row{0, 2e4}));
  out.loss_sum.backward();
  EXPECT_EQ(row_of(hidden.grad()), (reference::Row{0, 2}));
}

TEST(LinearCrossEntropy, TakesBfloat16HiddenStatesBesideFloat32Weights) {
  const at::Tensor hidden = random_leaf({64, 16}, 14, at::kBFloat16);
  const at::Tensor weight = random_leaf({50, 16}, 15, at::kFloat);
  const at::Tensor label = at::arange(64, at::kLong) % 50;
  const CrossEntropy out = linear_cross_entropy(hidden, weight, label);
  EXPECT_EQ(out.loss_sum.scalar_type(), at::kFloat);
  out.loss_sum.backward();
  EXPECT_EQ(hidden.grad().scalar_type(), at::kBFloat16);
  EXPECT_EQ(weight.grad().scalar_type(), at::kFloat);
  const auto want = reference::cross_entropy(
      matrix_of(hidden), matrix_of(weight),
      {label.const_data_ptr<int64_t>(), label.const_data_ptr<int64_t>() + 64});
  EXPECT_NEAR(out.loss_sum.item<double>(), want.sum, want.sum * 0.005);
  EXPECT_LT(distance(weight.grad(), want.dweight), 0.03);
}

TEST(LinearCrossEntropy, NeedsNoGradients) {
  const at::NoGradGuard no_grad;
  const at::Tensor hidden = random_leaf({5, 4}, 16), weight = random_leaf({9, 4}, 17);
  const CrossEntropy out = linear_cross_entropy(hidden, weight, integers({8, 0, -1, 3, 3}));
  EXPECT_FALSE(out.loss_sum.requires_grad());
  EXPECT_GT(out.loss_sum.item<double>(), 0);
}

TEST(LinearCrossEntropy, RefusesLabelsBeyondTheVocabulary) {
  EXPECT_THROW(linear_cross_entropy(at::ones({1, 2}), at::ones({3, 2}), integers({3})),
               std::exception);
}

}  // namespace
}  // namespace locus::ops
