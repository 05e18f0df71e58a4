// What tests on tensors share: random values, comparison with the reference loops, gradients
// against central differences.
#pragma once

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "tests/reference/matmul_reference.h"

namespace locus::test {

inline at::Tensor random_tensor(at::IntArrayRef shape, uint64_t seed,
                                at::ScalarType type = at::kDouble) {
  return at::randn(shape, at::detail::createCPUGenerator(seed), at::TensorOptions(at::kDouble))
      .to(type);
}

inline at::Tensor random_leaf(at::IntArrayRef shape, uint64_t seed,
                              at::ScalarType type = at::kDouble) {
  return random_tensor(shape, seed, type).requires_grad_(true);
}

inline at::Tensor integers(const std::vector<int64_t>& values) {
  return at::tensor(values, at::kLong);
}

inline reference::Row row_of(const at::Tensor& x) {
  const at::Tensor values = x.detach().to(at::kDouble).contiguous();
  return {values.const_data_ptr<double>(), values.const_data_ptr<double>() + values.numel()};
}

inline reference::Matrix matrix_of(const at::Tensor& x) {
  const at::Tensor values = x.detach().to(at::kDouble).contiguous();
  const double* first = values.const_data_ptr<double>();
  reference::Matrix rows;
  for (int64_t r = 0; r < x.size(0); ++r) {
    rows.emplace_back(first + r * x.size(1), first + (r + 1) * x.size(1));
  }
  return rows;
}

inline std::vector<reference::Matrix> matrices_of(const at::Tensor& x) {
  std::vector<reference::Matrix> all;
  for (int64_t e = 0; e < x.size(0); ++e) all.push_back(matrix_of(x[e]));
  return all;
}

inline at::Tensor tensor_of(const reference::Matrix& rows) {
  const auto num_columns = rows.empty() ? 0 : static_cast<int64_t>(rows[0].size());
  at::Tensor x = at::empty({static_cast<int64_t>(rows.size()), num_columns}, at::kDouble);
  double* next = x.mutable_data_ptr<double>();
  for (const reference::Row& row : rows) next = std::copy(row.begin(), row.end(), next);
  return x;
}

// Largest difference over 1 + |want|; NaN anywhere in `got` is infinitely far.
inline double distance(const at::Tensor& got, const at::Tensor& want) {
  if (got.sizes() != want.sizes()) return INFINITY;
  if (got.numel() == 0) return 0;
  const at::Tensor w = want.detach().to(at::kDouble);
  const double far =
      ((got.detach().to(at::kDouble) - w).abs() / (1 + w.abs())).max().item<double>();
  return std::isnan(far) ? INFINITY : far;
}

inline double distance(const at::Tensor& got, const reference::Matrix& want) {
  return distance(got, tensor_of(want));
}

// The gradients of the scalar `loss` in float64 leaves, of about `num_probes` elements of each,
// against central differences. `loss` must be a function of the leaves alone.
inline void expect_gradients(std::vector<at::Tensor> leaves,
                             const std::function<at::Tensor()>& loss, double tolerance = 1e-6,
                             int64_t num_probes = 64) {
  for (at::Tensor& leaf : leaves) leaf.mutable_grad() = at::Tensor();
  loss().backward();
  for (size_t i = 0; i < leaves.size(); ++i) {
    ASSERT_EQ(leaves[i].scalar_type(), at::kDouble);
    ASSERT_TRUE(leaves[i].is_contiguous());
    const at::Tensor grad =
        leaves[i].grad().defined() ? leaves[i].grad().contiguous() : at::zeros_like(leaves[i]);
    const double* slope = grad.const_data_ptr<double>();
    double* value = leaves[i].detach().mutable_data_ptr<double>();
    const int64_t step = std::max<int64_t>(1, leaves[i].numel() / num_probes);
    for (int64_t j = 0; j < leaves[i].numel(); j += step) {
      const double start = value[j], h = 1e-5 * std::max(1.0, std::abs(start));
      value[j] = start + h;
      const double above = loss().item<double>();
      value[j] = start - h;
      const double below = loss().item<double>();
      value[j] = start;
      const double want = (above - below) / (2 * h);
      EXPECT_NEAR(slope[j], want, tolerance * (1 + std::abs(want))) << "leaf " << i << " at " << j;
    }
  }
}

}  // namespace locus::test
