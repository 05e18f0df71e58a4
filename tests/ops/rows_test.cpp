#include "locus/ops/rows.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "locus/base/error.h"
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

at::Tensor random_indices(int64_t count, int64_t limit, uint64_t seed) {
  return at::randint(limit, {count}, at::detail::createCPUGenerator(seed),
                     at::TensorOptions(at::kLong));
}

std::vector<int64_t> list_of(const at::Tensor& values) {
  return {values.const_data_ptr<int64_t>(), values.const_data_ptr<int64_t>() + values.numel()};
}

at::Tensor combine_by_loops(const at::Tensor& y, const std::vector<int64_t>& token,
                            const at::Tensor& weight, size_t num_tokens) {
  const reference::Matrix rows = matrix_of(y);
  const reference::Row w = row_of(weight);
  reference::Matrix out(num_tokens, reference::Row(static_cast<size_t>(y.size(1)), 0.0));
  for (size_t n = 0; n < token.size(); ++n) {
    for (size_t d = 0; d < rows[n].size(); ++d) {
      out[static_cast<size_t>(token[n])][d] += w[n] * rows[n][d];
    }
  }
  return test::tensor_of(out);
}

TEST(SortByExpert, KeepsTheOrderOfArrivalWithinAnExpert) {
  const ExpertOrder order = sort_by_expert(integers({3, 0, 3, 1, 0, 3}), 5);
  EXPECT_EQ(list_of(order.order_N), (std::vector<int64_t>{1, 4, 3, 0, 2, 5}));
  EXPECT_EQ(order.counts_E, (std::vector<int64_t>{2, 1, 0, 3, 0}));
}

TEST(SortByExpert, EqualsAStableSortOfManyAssignments) {
  const at::Tensor expert_N = random_indices(5000, 64, 1);
  const ExpertOrder order = sort_by_expert(expert_N, 64);
  EXPECT_TRUE(at::equal(order.order_N, at::argsort(expert_N, /*stable=*/true)));
  EXPECT_TRUE(at::equal(integers(order.counts_E), at::bincount(expert_N, {}, 64)));
}

TEST(SortByExpert, TakesStridedAndEmptyLists) {
  const at::Tensor strided = integers({2, 9, 0, 9, 1, 9}).view({3, 2}).select(1, 0);
  EXPECT_EQ(list_of(sort_by_expert(strided, 3).order_N), (std::vector<int64_t>{1, 2, 0}));
  const ExpertOrder none = sort_by_expert(at::empty({0}, at::kLong), 3);
  EXPECT_EQ(none.order_N.numel(), 0);
  EXPECT_EQ(none.counts_E, (std::vector<int64_t>{0, 0, 0}));
}

TEST(SortByExpert, RefusesExpertsThatDoNotExist) {
  EXPECT_THROW(sort_by_expert(integers({0, 3}), 3), InternalError);
  EXPECT_THROW(sort_by_expert(integers({0, -1}), 3), InternalError);
}

TEST(GatherRows, EqualsALoop) {
  const at::Tensor x = random_tensor({7, 5}, 2, at::kFloat), token = random_indices(40, 7, 3);
  const at::Tensor out = gather_rows(x, token);
  for (int64_t n = 0; n < 40; ++n) EXPECT_TRUE(at::equal(out[n], x[token[n].item<int64_t>()]));
}

TEST(GatherRows, HasTheGradientOfTheFiniteDifferences) {
  const at::Tensor x = random_leaf({6, 4}, 4), token = integers({5, 0, 5, 5, 2, 0});
  const at::Tensor probe = random_tensor({6, 4}, 5);
  expect_gradients({x}, [&] { return (gather_rows(x, token).square() * probe).sum(); });
  EXPECT_EQ(x.grad()[1].abs().max().item<double>(), 0) << "a token without rows";
}

TEST(GatherRows, ReadsStridedIndicesInTheGradientToo) {
  const at::Tensor x = random_leaf({3, 2}, 6);
  const at::Tensor token = integers({2, 0, 1, 0, 2, 0}).view({3, 2}).select(1, 0);  // 2 1 2
  gather_rows(x, token).sum().backward();
  EXPECT_EQ(row_of(x.grad()), (reference::Row{0, 0, 1, 1, 2, 2}));
}

TEST(CombineRows, EqualsALoop) {
  const at::Tensor y = random_tensor({300, 33}, 7, at::kFloat), token = random_indices(300, 90, 8);
  const at::Tensor weight = random_tensor({300}, 9, at::kFloat);
  const at::Tensor out = combine_rows(y, token, weight, 100);
  ASSERT_EQ(out.sizes(), (std::vector<int64_t>{100, 33}));
  EXPECT_LT(distance(out, combine_by_loops(y, list_of(token), weight, 100)), 1e-6);
  EXPECT_EQ(out.narrow(0, 90, 10).abs().max().item<float>(), 0) << "tokens without rows";
}

TEST(CombineRows, HasTheGradientsOfTheFiniteDifferences) {
  const at::Tensor y = random_leaf({6, 3}, 10), weight = random_leaf({6}, 11);
  const at::Tensor token = integers({4, 0, 4, 1, 0, 4}), probe = random_tensor({5, 3}, 12);
  expect_gradients({y, weight},
                   [&] { return (combine_rows(y, token, weight, 5).square() * probe).sum(); });
}

TEST(CombineRows, UndoesAGatherThroughTheExpertOrder) {
  const at::Tensor x = random_tensor({50, 8}, 13, at::kFloat);
  const at::Tensor token = at::arange(50, at::kLong).repeat_interleave(2);
  const at::Tensor sorted =
      token.index_select(0, sort_by_expert(random_indices(100, 6, 14), 6).order_N);
  const at::Tensor half = at::full({100}, 0.5, at::kFloat);
  EXPECT_TRUE(at::equal(combine_rows(gather_rows(x, sorted), sorted, half, 50), x));
}

TEST(CombineRows, OfNothingIsZeroAndPassesAGradient) {
  const at::Tensor y = random_leaf({0, 4}, 15), weight = random_leaf({0}, 16);
  const at::Tensor x = random_leaf({3, 4}, 17), none = at::empty({0}, at::kLong);
  const at::Tensor out = combine_rows(y, none, weight, 3);
  EXPECT_EQ(out.abs().sum().item<double>(), 0);
  (out.sum() + gather_rows(x, none).sum()).backward();
  EXPECT_EQ(y.grad().sizes(), y.sizes());
  EXPECT_EQ(weight.grad().sizes(), weight.sizes());
  EXPECT_EQ(x.grad().abs().sum().item<double>(), 0);
  EXPECT_EQ(combine_rows(y, none, weight, 0).sizes(), (std::vector<int64_t>{0, 4}));
}

TEST(CombineRows, AddsBfloat16RowsInFloat32) {
  // In bfloat16 256 + 1 is 256.
  const at::Tensor y = at::ones({300, 2}, at::kBFloat16).requires_grad_(true);
  const at::Tensor weight = at::ones({300}, at::kFloat).requires_grad_(true);
  const at::Tensor token = at::zeros({300}, at::kLong);
  const at::Tensor out = combine_rows(y, token, weight, 1);
  EXPECT_EQ(out.scalar_type(), at::kBFloat16);
  EXPECT_EQ(row_of(out), (reference::Row{300, 300}));
  out.sum().backward();
  EXPECT_EQ(y.grad().scalar_type(), at::kBFloat16);
  EXPECT_EQ(weight.grad().scalar_type(), at::kFloat);
  EXPECT_EQ(weight.grad()[7].item<float>(), 2);

  const at::Tensor x = at::zeros({1, 2}, at::kBFloat16).requires_grad_(true);
  gather_rows(x, token).sum().backward();
  EXPECT_EQ(row_of(x.grad()), (reference::Row{300, 300}));
}

TEST(CombineRows, RefusesTokensThatDoNotExist) {
  EXPECT_THROW(combine_rows(at::ones({1, 2}), integers({3}), at::ones({1}), 3), InternalError);
}

}  // namespace
}  // namespace locus::ops
