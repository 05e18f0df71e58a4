#include "locus/nn/rope.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "locus/ops/heads.h"
#include "tests/reference/rope_reference.h"
#include "tests/support/tensors.h"

namespace locus::nn {
namespace {

using test::distance;
using test::integers;
using test::random_tensor;
using test::row_of;

at::Tensor rotate(const at::Tensor& x_BSHC, const std::vector<int64_t>& positions,
                  const RopeConfig& config) {
  const at::Tensor ids = integers(positions).view({x_BSHC.size(0), x_BSHC.size(1)});
  const RopeTable table = rope_table(ids, config);
  return ops::to_heads(x_BSHC.flatten(2), x_BSHC.size(2), table.cos, table.sin).transpose(1, 2);
}

void expect_loops(const RopeConfig& config, double theta, double stretch) {
  const std::vector<int64_t> positions{0, 1, 7, 3, 0, 1000};
  const at::Tensor x = random_tensor({2, 3, 2, 8}, 1);
  const at::Tensor y = rotate(x, positions, config);
  for (int64_t t = 0; t < 6; ++t) {
    for (int64_t h = 0; h < 2; ++h) {
      const double position = static_cast<double>(positions[static_cast<size_t>(t)]) / stretch;
      const auto want = reference::rope(row_of(x[t / 3][t % 3][h]), position, theta);
      EXPECT_LT(distance(y[t / 3][t % 3][h], at::tensor(want, at::kDouble)), 1e-6) << t;
    }
  }
}

TEST(Rope, EqualsLoops) { expect_loops({.head_dim = 8, .theta = 10000}, 10000, 1); }

TEST(Rope, LinearScalingStretchesPositions) {
  expect_loops({.head_dim = 8, .theta = 500, .scaling = "linear", .factor = 4}, 500, 4);
}

TEST(Rope, NtkScalingRaisesTheBase) {
  // So that the slowest frequency is that of linear scaling: theta^(-6/8) / factor.
  const double theta = 500 * std::pow(4.0, 8.0 / 6.0);
  expect_loops({.head_dim = 8, .theta = 500, .scaling = "ntk", .factor = 4}, theta, 1);
  EXPECT_NEAR(std::pow(theta, -6.0 / 8), std::pow(500.0, -6.0 / 8) / 4, 1e-12);
}

TEST(Rope, Llama3StretchesLongWavesAlone) {
  const RopeConfig config{.head_dim = 8,
                          .theta = 10000,
                          .scaling = "llama3",
                          .factor = 8,
                          .low_freq_factor = 1,
                          .high_freq_factor = 4,
                          .original_context = 64};
  // Waves in 64 positions: 64 f / 2 pi for f = 1, 0.1, 0.01, 0.001: 10.19, 1.0186, 0.1019, 0.0102.
  const double kept = (6.4 / (2 * M_PI) - 1) / 3;
  const std::vector<double> want{1.0, 0.1 * kept + 0.1 / 8 * (1 - kept), 0.01 / 8, 0.001 / 8};
  const RopeTable table = rope_table(integers({1}), config);
  for (int64_t i = 0; i < 4; ++i) {
    EXPECT_NEAR(table.sin[0][i].item<double>(), std::sin(want[static_cast<size_t>(i)]), 1e-7) << i;
  }
}

TEST(Rope, MakesProductsOfQueriesAndKeysRelative) {
  const RopeConfig config{.head_dim = 16};
  const at::Tensor q = random_tensor({1, 1, 1, 16}, 2), k = random_tensor({1, 1, 1, 16}, 3);
  const auto product = [&](int64_t at_q, int64_t at_k) {
    return (rotate(q, {at_q}, config) * rotate(k, {at_k}, config)).sum().item<double>();
  };
  EXPECT_NEAR(product(5, 2), product(1003, 1000), 1e-5);
  EXPECT_NEAR(product(0, 0), product(77, 77), 1e-5);
  EXPECT_GT(std::abs(product(5, 2) - product(2, 5)), 1e-3);
}

TEST(Rope, KeepsItsPrecisionAtLongPositions) {
  const RopeTable table = rope_table(integers({1000000}), {.head_dim = 4, .theta = 10000});
  EXPECT_NEAR(table.cos[0][0].item<double>(), std::cos(1e6), 1e-6);
  EXPECT_NEAR(table.sin[0][1].item<double>(), std::sin(1e4), 1e-6);
}

TEST(Rope, RotatesBfloat16InFloat32) {
  const at::Tensor x = random_tensor({1, 2, 1, 8}, 4, at::kBFloat16);
  const at::Tensor y = rotate(x, {900, 901}, {.head_dim = 8});
  EXPECT_EQ(y.scalar_type(), at::kBFloat16);
  EXPECT_LT(distance(y, rotate(x.to(at::kFloat), {900, 901}, {.head_dim = 8})), 1.0 / 256);
}

TEST(Rope, HasTheGradientOfTheFiniteDifferences) {
  const at::Tensor x = test::random_leaf({1, 3, 2, 4}, 5), probe = random_tensor({1, 3, 2, 4}, 6);
  test::expect_gradients({x}, [&] {
    return (rotate(x, {0, 4, 9}, {.head_dim = 4}) * probe).sum();
  });
}

}  // namespace
}  // namespace locus::nn
