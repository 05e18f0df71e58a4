#include "locus/ops/feed_forward.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "locus/base/error.h"
#include "tests/reference/feed_forward_reference.h"
#include "tests/support/expect_error.h"
#include "tests/support/tensors.h"

namespace locus::ops {
namespace {

using test::distance;
using test::expect_gradients;
using test::matrix_of;
using test::random_leaf;
using test::random_tensor;
using test::row_of;

constexpr int64_t kHidden = 5, kWidth = 7;
const std::vector<int64_t> kCounts{0, 3, 1, 0, 4, 0};
constexpr int64_t kRows = 8, kGroups = 6;

struct Case {
  const char* activation;
  bool with_bias;
};

class GroupedFeedForward : public testing::TestWithParam<Case> {
 protected:
  Activation activation() const { return parse_activation(GetParam().activation); }

  FeedForwardWeights weights(at::ScalarType type = at::kDouble) const {
    const int64_t rows = up_rows(activation(), kWidth);
    FeedForwardWeights w;
    w.up_EUD = random_leaf({kGroups, rows, kHidden}, 1, type);
    w.down_EDF = random_leaf({kGroups, kHidden, kWidth}, 2, type);
    if (GetParam().with_bias) {
      w.up_bias_EU = random_leaf({kGroups, rows}, 3, type);
      w.down_bias_ED = random_leaf({kGroups, kHidden}, 4, type);
    }
    return w;
  }

  static std::vector<at::Tensor> list(const FeedForwardWeights& w) {
    std::vector<at::Tensor> all{w.up_EUD, w.down_EDF};
    if (w.up_bias_EU.defined()) all.insert(all.end(), {w.up_bias_EU, w.down_bias_ED});
    return all;
  }

  reference::Matrix by_loops(const at::Tensor& x, const FeedForwardWeights& w) const {
    reference::Matrix out;
    const reference::Matrix rows = matrix_of(x);
    for (size_t e = 0; e < kCounts.size(); ++e) {
      const auto at_e = static_cast<int64_t>(e);
      reference::FeedForward net{matrix_of(w.up_EUD[at_e]), {}, matrix_of(w.down_EDF[at_e]), {}};
      if (GetParam().with_bias) {
        net.up_bias = row_of(w.up_bias_EU[at_e]);
        net.down_bias = row_of(w.down_bias_ED[at_e]);
      }
      for (int64_t i = 0; i < kCounts[e]; ++i) {
        out.push_back(reference::feed_forward(net, rows[out.size()], GetParam().activation));
      }
    }
    return out;
  }
};

TEST_P(GroupedFeedForward, EqualsLoops) {
  for (const auto& [type, tolerance] :
       {std::pair(at::kDouble, 1e-13), std::pair(at::kFloat, 1e-5)}) {
    const FeedForwardWeights w = weights(type);
    const at::Tensor x = random_tensor({kRows, kHidden}, 5, type);
    const at::Tensor y = grouped_feed_forward(x, kCounts, w, activation());
    EXPECT_EQ(y.scalar_type(), type);
    EXPECT_LT(distance(y, by_loops(x, w)), tolerance);
  }
}

TEST_P(GroupedFeedForward, HasTheGradientsOfTheFiniteDifferences) {
  const FeedForwardWeights w = weights();
  const at::Tensor x = random_leaf({kRows, kHidden}, 6), probe = random_tensor({kRows, kHidden}, 7);
  std::vector<at::Tensor> leaves = list(w);
  leaves.push_back(x);
  expect_gradients(
      leaves, [&] { return (grouped_feed_forward(x, kCounts, w, activation()) * probe).sum(); },
      1e-7, 500);
  for (const at::Tensor& leaf : list(w)) {
    EXPECT_EQ(leaf.grad()[3].abs().max().item<double>(), 0) << "a group without rows";
  }
}

TEST_P(GroupedFeedForward, AddsTheGradientsOfTwoPasses) {
  const FeedForwardWeights w = weights();
  const at::Tensor x = random_tensor({kRows, kHidden}, 8);
  const auto backward = [&] { grouped_feed_forward(x, kCounts, w, activation()).sum().backward(); };
  backward();
  const at::Tensor once = w.up_EUD.grad().clone();
  backward();
  EXPECT_LT(distance(w.up_EUD.grad(), once * 2), 1e-14);
}

TEST_P(GroupedFeedForward, KeepsFloat32GradientsWhenItComputesInBfloat16) {
  const FeedForwardWeights w = weights(at::kFloat), exact = weights(at::kFloat);
  const at::Tensor x = random_leaf({kRows, kHidden}, 9, at::kBFloat16);
  const at::Tensor y = grouped_feed_forward(x, kCounts, w, activation());
  EXPECT_EQ(y.scalar_type(), at::kBFloat16);
  y.sum().backward();
  EXPECT_EQ(x.grad().scalar_type(), at::kBFloat16);
  grouped_feed_forward(x.detach().to(at::kFloat), kCounts, exact, activation()).sum().backward();
  const std::vector<at::Tensor> low = list(w), high = list(exact);
  for (size_t i = 0; i < low.size(); ++i) {
    EXPECT_EQ(low[i].grad().scalar_type(), at::kFloat);
    EXPECT_LT(distance(low[i].grad(), high[i].grad()), 0.08) << "weight " << i;
  }
}

TEST_P(GroupedFeedForward, OfNoRowsIsEmptyWithZeroGradients) {
  const FeedForwardWeights w = weights();
  const at::Tensor x = random_leaf({0, kHidden}, 10);
  const at::Tensor y = grouped_feed_forward(x, {0, 0, 0, 0, 0, 0}, w, activation());
  EXPECT_EQ(y.sizes(), (std::vector<int64_t>{0, kHidden}));
  y.sum().backward();
  EXPECT_EQ(x.grad().sizes(), x.sizes());
  for (const at::Tensor& leaf : list(w)) EXPECT_EQ(leaf.grad().abs().sum().item<double>(), 0);
}

TEST_P(GroupedFeedForward, TrainsItsInputUnderFrozenWeightsAndTheReverse) {
  FeedForwardWeights frozen = weights();
  for (at::Tensor& weight : list(frozen)) weight.requires_grad_(false);
  const at::Tensor x = random_leaf({kRows, kHidden}, 11);
  grouped_feed_forward(x, kCounts, frozen, activation()).sum().backward();
  const FeedForwardWeights free = weights();
  const at::Tensor x2 = random_leaf({kRows, kHidden}, 11);
  grouped_feed_forward(x2, kCounts, free, activation()).sum().backward();
  EXPECT_TRUE(at::equal(x.grad(), x2.grad()));
  EXPECT_FALSE(frozen.up_EUD.grad().defined());
  const FeedForwardWeights alone = weights();
  grouped_feed_forward(x.detach(), kCounts, alone, activation()).sum().backward();
  EXPECT_TRUE(at::equal(alone.down_EDF.grad(), free.down_EDF.grad()));
}

INSTANTIATE_TEST_SUITE_P(Ops, GroupedFeedForward,
                         testing::Values(Case{"swiglu", false}, Case{"swiglu", true},
                                         Case{"gelu", false}, Case{"gelu", true},
                                         Case{"gelu_new", false}, Case{"gelu_new", true}),
                         [](const auto& instance) {
                           return std::string(instance.param.activation) +
                                  (instance.param.with_bias ? "_bias" : "");
                         });

TEST(Activation, RefusesUnknownNames) {
  const std::string text = test::error_of<ConfigError>([] { parse_activation("relu6"); });
  EXPECT_NE(text.find("relu6"), std::string::npos) << text;
  EXPECT_NE(text.find("swiglu"), std::string::npos) << text;
}

TEST(Activation, OnlyTheGatedOneDoublesTheUpProjection) {
  EXPECT_EQ(up_rows(Activation::kSwiglu, 7), 14);
  EXPECT_EQ(up_rows(Activation::kGelu, 7), 7);
  EXPECT_EQ(up_rows(Activation::kGeluTanh, 7), 7);
}

}  // namespace
}  // namespace locus::ops
