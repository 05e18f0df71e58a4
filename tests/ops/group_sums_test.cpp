#include "locus/ops/group_sums.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "locus/ops/cpu/kernels.h"

namespace locus::ops {
namespace {

// The gate as the paper writes it: row g is 1 on its group of channels and 0 elsewhere.
at::Tensor group_matrix(int64_t num_channels, int64_t num_groups) {
  at::Tensor matrix_GD = at::zeros({num_groups, num_channels}, at::kDouble);
  int64_t first = 0;
  for (int64_t g = 0; g < num_groups; ++g) {
    const int64_t size = num_channels / num_groups + (g < num_channels % num_groups ? 1 : 0);
    matrix_GD[g].slice(0, first, first + size).fill_(1);
    first += size;
  }
  return matrix_GD;
}

at::Tensor random(at::IntArrayRef shape, uint64_t seed) {
  return at::randn(shape, at::detail::createCPUGenerator(seed), at::TensorOptions(at::kDouble));
}

class GroupSums : public testing::TestWithParam<std::tuple<int64_t, int64_t, at::ScalarType>> {};

TEST_P(GroupSums, EqualTheProductWithTheSparseMatrixForwardsAndBackwards) {
  const auto [num_channels, num_groups, type] = GetParam();
  const double tolerance = type == at::kDouble ? 1e-12 : type == at::kFloat ? 1e-5 : 1e-2;
  for (const cpu::Kernels* kernels : cpu::compiled_kernels()) {
    if (!kernels->supported()) continue;
    cpu::use_kernels(kernels->name);
    at::Tensor x = random({7, num_channels}, 1).to(type).requires_grad_();
    const at::Tensor sum_TG = group_sums(x, num_groups);
    EXPECT_EQ(sum_TG.scalar_type(), type == at::kDouble ? at::kDouble : at::kFloat);
    const at::Tensor matrix_GD = group_matrix(num_channels, num_groups);
    const at::Tensor want_TG = at::mm(x.detach().to(at::kDouble), matrix_GD.t());
    EXPECT_TRUE(at::allclose(sum_TG.detach().to(at::kDouble), want_TG, 1e-5, 1e-4));

    const at::Tensor dsum_TG = random({7, num_groups}, 2);
    const at::Tensor dx = torch::autograd::grad({sum_TG}, {x}, {dsum_TG.to(sum_TG.dtype())})[0];
    EXPECT_EQ(dx.scalar_type(), type);
    EXPECT_TRUE(at::allclose(dx.to(at::kDouble), at::mm(dsum_TG, matrix_GD), tolerance, tolerance));
  }
  cpu::use_kernels("");
}

INSTANTIATE_TEST_SUITE_P(Shapes, GroupSums,
                         testing::Combine(testing::Values<int64_t>(8, 10, 64, 1030),
                                          testing::Values<int64_t>(1, 3, 8),
                                          testing::Values(at::kFloat, at::kBFloat16, at::kDouble)));

TEST(GroupSumsOf, NoRowsAreNoSums) {
  EXPECT_EQ(group_sums(at::empty({0, 8}), 4).sizes(), (at::IntArrayRef{0, 4}));
}

TEST(GroupSumsOf, RowsAtAnyDistance) {
  const at::Tensor wide = random({5, 24}, 3).to(at::kFloat);
  EXPECT_TRUE(at::equal(group_sums(wide.slice(1, 4, 16), 3),
                        group_sums(wide.slice(1, 4, 16).contiguous(), 3)));
  EXPECT_TRUE(at::equal(group_sums(wide.t(), 5), group_sums(wide.t().contiguous(), 5)));
}

TEST(GroupSizes, GiveTheFirstGroupsOneMore) {
  EXPECT_TRUE(at::equal(group_sizes(10, 4), at::tensor({3.0f, 3.0f, 2.0f, 2.0f})));
}

}  // namespace
}  // namespace locus::ops
