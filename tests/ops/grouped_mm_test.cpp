#include "locus/ops/grouped_mm.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "locus/base/error.h"
#include "tests/support/tensors.h"

namespace locus::ops {
namespace {

using test::distance;
using test::matrices_of;
using test::matrix_of;
using test::random_tensor;

const std::vector<int64_t> kCounts{3, 0, 1, 5, 0};

TEST(GroupedMm, EqualsLoopsWithGroupsWithoutRows) {
  const at::Tensor a = random_tensor({9, 4}, 1, at::kFloat);
  const at::Tensor b = random_tensor({5, 4, 6}, 2, at::kFloat);
  const auto want = reference::grouped_matmul(matrix_of(a), matrices_of(b), kCounts);
  EXPECT_LT(distance(grouped_mm(a, b, kCounts), want), 1e-6);
  // The same matrices stored the other way round.
  EXPECT_LT(distance(grouped_mm(a, b.transpose(1, 2).contiguous().transpose(1, 2), kCounts), want),
            1e-6);
  // Rows that are a part of wider ones.
  EXPECT_LT(distance(grouped_mm(at::cat({a, a}, 1).narrow(1, 0, 4), b, kCounts), want), 1e-6);
}

TEST(GroupedMm, RoundsBfloat16Once) {
  const at::Tensor a = random_tensor({9, 64}, 3, at::kBFloat16);
  const at::Tensor b = random_tensor({5, 64, 6}, 4, at::kBFloat16);
  const at::Tensor out = grouped_mm(a, b, kCounts);
  EXPECT_EQ(out.scalar_type(), at::kBFloat16);
  const auto want = reference::grouped_matmul(matrix_of(a), matrices_of(b), kCounts);
  EXPECT_LT(distance(out, want), 1.0 / 200);
}

TEST(GroupedMm, OfNoRowsIsEmpty) {
  const at::Tensor out =
      grouped_mm(at::empty({0, 4}), at::ones({2, 4, 6}), std::vector<int64_t>{0, 0});
  EXPECT_EQ(out.sizes(), (std::vector<int64_t>{0, 6}));
}

TEST(GroupedMm, RefusesCountsThatDoNotFit) {
  const at::Tensor a = at::ones({3, 2}), b = at::ones({2, 2, 2});
  EXPECT_THROW(grouped_mm(a, b, std::vector<int64_t>{1, 1}), InternalError);
  EXPECT_THROW(grouped_mm(a, b, std::vector<int64_t>{3}), InternalError);
}

TEST(GroupedOuter, EqualsLoopsAndIsZeroForGroupsWithoutRows) {
  const at::Tensor a = random_tensor({9, 4}, 5, at::kFloat),
                   b = random_tensor({9, 6}, 6, at::kFloat);
  const at::Tensor out = grouped_outer(a, b, kCounts, at::kFloat);
  const auto want = reference::grouped_outer(matrix_of(a), matrix_of(b), 4, 6, kCounts);
  for (int64_t e = 0; e < 5; ++e) {
    EXPECT_LT(distance(out[e], want[static_cast<size_t>(e)]), 1e-6) << "group " << e;
  }
}

TEST(GroupedOuter, GivesFloat32OfBfloat16Rows) {
  const at::Tensor a = random_tensor({9, 4}, 7, at::kBFloat16);
  const at::Tensor b = random_tensor({9, 6}, 8, at::kBFloat16);
  const at::Tensor out = grouped_outer(a, b, kCounts, at::kFloat);
  EXPECT_EQ(out.scalar_type(), at::kFloat);
  const auto want = reference::grouped_outer(matrix_of(a), matrix_of(b), 4, 6, kCounts);
  for (int64_t e = 0; e < 5; ++e) {
    EXPECT_LT(distance(out[e], want[static_cast<size_t>(e)]), 1.0 / 200) << "group " << e;
  }
}

TEST(GroupedOuter, OfNoRowsIsZero) {
  const at::Tensor out =
      grouped_outer(at::empty({0, 4}), at::empty({0, 6}), std::vector<int64_t>{0, 0}, at::kFloat);
  EXPECT_TRUE(at::equal(out, at::zeros({2, 4, 6})));
}

TEST(GroupedOuter, RefusesCountsThatDoNotFit) {
  EXPECT_THROW(
      grouped_outer(at::ones({3, 2}), at::ones({3, 2}), std::vector<int64_t>{1, 1}, at::kFloat),
      InternalError);
}

}  // namespace
}  // namespace locus::ops
