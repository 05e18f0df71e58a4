#include "locus/ops/keyed_random.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/support/tensors.h"

namespace locus::ops {
namespace {

using test::integers;

const at::Tensor kMany = at::arange(1000, at::kLong);

double mean_of(const at::Tensor& x) { return x.to(at::kDouble).mean().item<double>(); }
double variance_of(const at::Tensor& x) { return x.to(at::kDouble).var().item<double>(); }
double correlation_of(const at::Tensor& a, const at::Tensor& b) {
  return at::corrcoef(at::stack({a.flatten(), b.flatten()}))[0][1].item<double>();
}

TEST(KeyedUniform, IsAFunctionOfTheIndexAlone) {
  const at::Tensor all = keyed_uniform(5, kMany, 33);
  const at::Tensor order = at::randperm(1000, at::kLong);
  EXPECT_TRUE(at::equal(keyed_uniform(5, order, 33), all.index_select(0, order)));
  EXPECT_TRUE(at::equal(keyed_uniform(5, integers({999}), 33)[0], all[999]));
  EXPECT_TRUE(at::equal(keyed_uniform(5, kMany, 7), all.narrow(1, 0, 7)))
      << "the number of columns does not matter";
}

TEST(KeyedUniform, IsUniform) {
  const at::Tensor u = keyed_uniform(6, kMany, 256);
  EXPECT_GE(u.min().item<float>(), 0);
  EXPECT_LT(u.max().item<float>(), 1);
  EXPECT_NEAR(mean_of(u), 0.5, 0.003);
  EXPECT_NEAR(variance_of(u), 1.0 / 12, 0.001);
  const at::Tensor counts = at::histc(u, 16, 0, 1);
  EXPECT_NEAR(counts.min().item<double>(), 16000, 600);
  EXPECT_NEAR(counts.max().item<double>(), 16000, 600);
}

TEST(KeyedUniform, HasNoRelationBetweenKeysRowsOrColumns) {
  const at::Tensor u = keyed_uniform(7, kMany, 256);
  EXPECT_LT(std::abs(correlation_of(u, keyed_uniform(8, kMany, 256))), 0.01);
  EXPECT_LT(std::abs(correlation_of(u.narrow(0, 0, 999), u.narrow(0, 1, 999))), 0.01);
  EXPECT_LT(std::abs(correlation_of(u.narrow(1, 0, 255), u.narrow(1, 1, 255))), 0.01);
}

TEST(KeyedUniform, TakesStridedAndEmptyIndices) {
  const at::Tensor strided = integers({4, 0, 9, 0}).view({2, 2}).select(1, 0);
  EXPECT_TRUE(at::equal(keyed_uniform(5, strided, 3), keyed_uniform(5, integers({4, 9}), 3)));
  EXPECT_EQ(keyed_uniform(5, at::empty({0}, at::kLong), 3).sizes(), (std::vector<int64_t>{0, 3}));
}

TEST(KeyedDropout, ZeroesItsShareAndScalesTheRest) {
  const at::Tensor y = keyed_dropout(at::ones({1000, 256}), 0.25, 9, kMany);
  EXPECT_NEAR(mean_of(y.eq(0)), 0.25, 0.003);
  EXPECT_NEAR(mean_of(y), 1, 0.005);
  EXPECT_NEAR(y.max().item<double>(), 1 / 0.75, 1e-6);
  EXPECT_EQ(at::logical_or(y.eq(0), y.eq(y.max())).all().item<bool>(), true);
}

TEST(KeyedDropout, DropsTheSameOfPermutedRows) {
  const at::Tensor x = test::random_tensor({1000, 8}, 1, at::kFloat);
  const at::Tensor order = at::randperm(1000, at::kLong);
  EXPECT_TRUE(at::equal(keyed_dropout(x.index_select(0, order), 0.5, 9, order),
                        keyed_dropout(x, 0.5, 9, kMany).index_select(0, order)));
}

TEST(KeyedDropout, PassesTheGradientWhereItPassedTheValue) {
  const at::Tensor x = test::random_leaf({20, 8}, 2);
  const at::Tensor index = at::arange(20, at::kLong);
  const at::Tensor y = keyed_dropout(x, 0.5, 9, index);
  EXPECT_EQ(y.scalar_type(), at::kDouble);
  y.sum().backward();
  EXPECT_TRUE(at::equal(x.grad(), y.detach().ne(0).to(at::kDouble) * 2));
  EXPECT_EQ(keyed_dropout(at::ones({20, 8}, at::kBFloat16), 0.5, 9, index).scalar_type(),
            at::kBFloat16);
}

TEST(KeyedNormal, IsNormalAndAFunctionOfItsKey) {
  at::Tensor a = at::empty({400, 500}), b = at::empty({400, 500}), c = at::empty({400, 500});
  keyed_normal_(a, 0.02, 10);
  keyed_normal_(b, 0.02, 10);
  keyed_normal_(c, 0.02, 11);
  EXPECT_TRUE(at::equal(a, b));
  EXPECT_NEAR(mean_of(a), 0, 2e-4);
  EXPECT_NEAR(std::sqrt(variance_of(a)), 0.02, 2e-4);
  EXPECT_LT(std::abs(correlation_of(a, c)), 0.01) << "neighbouring keys";
}

TEST(KeyedNormal, FillsOtherTypesLayoutsAndParameters) {
  at::Tensor plain = at::empty({6, 4});
  keyed_normal_(plain, 1, 12);
  const at::Tensor strided = at::empty({4, 6}).t();
  keyed_normal_(strided, 1, 12);
  EXPECT_TRUE(at::equal(strided, plain));
  const at::Tensor parameter = at::empty({6, 4}, at::kDouble).requires_grad_(true);
  keyed_normal_(parameter, 1, 12);
  EXPECT_TRUE(at::equal(parameter.detach(), plain.to(at::kDouble)));
}

}  // namespace
}  // namespace locus::ops
