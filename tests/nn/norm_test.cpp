#include "locus/nn/norm.h"

#include <gtest/gtest.h>

#include "locus/base/error.h"
#include "tests/reference/norm_reference.h"
#include "tests/support/expect_error.h"
#include "tests/support/tensors.h"

namespace locus::nn {
namespace {

using test::distance;
using test::random_leaf;
using test::random_tensor;
using test::row_of;

Norm random_norm(NormType type, int64_t size, double eps) {
  Norm norm(type, size, eps);
  const at::NoGradGuard no_grad;
  norm.to(at::kDouble);
  norm.weight.copy_(random_tensor({size}, 1));
  if (norm.bias.defined()) norm.bias.copy_(random_tensor({size}, 2));
  return norm;
}

TEST(Norm, EqualsLoops) {
  constexpr double kEps = 0.3;  // large, so that its place matters
  const at::Tensor x = random_tensor({2, 3, 6}, 3);
  const Norm rms = random_norm(NormType::kRms, 6, kEps),
             layer = random_norm(NormType::kLayer, 6, kEps);
  const at::Tensor y_rms = rms.forward(x), y_layer = layer.forward(x);
  for (int64_t b = 0; b < 2; ++b) {
    for (int64_t s = 0; s < 3; ++s) {
      const reference::Row row = row_of(x[b][s]), weight = row_of(rms.weight);
      EXPECT_LT(
          distance(y_rms[b][s], at::tensor(reference::rms_norm(row, weight, kEps), at::kDouble)),
          1e-13);
      const reference::Row want = reference::layer_norm(row, weight, row_of(layer.bias), kEps);
      EXPECT_LT(distance(y_layer[b][s], at::tensor(want, at::kDouble)), 1e-13);
    }
  }
}

TEST(Norm, HasTheGradientsOfTheFiniteDifferences) {
  const at::Tensor probe = random_tensor({4, 6}, 4);
  for (const NormType type : {NormType::kRms, NormType::kLayer}) {
    const Norm norm = random_norm(type, 6, 1e-5);
    const at::Tensor x = random_leaf({4, 6}, 5);
    std::vector<at::Tensor> leaves = norm.parameters();
    EXPECT_EQ(leaves.size(), type == NormType::kRms ? 1u : 2u);
    leaves.push_back(x);
    test::expect_gradients(leaves, [&] { return (norm.forward(x) * probe).sum(); });
  }
}

TEST(Norm, OfBfloat16IsThatOfFloat32Rounded) {
  for (const NormType type : {NormType::kRms, NormType::kLayer}) {
    Norm norm = random_norm(type, 512, 1e-5);
    norm.to(at::kFloat);
    const at::Tensor x = random_tensor({8, 512}, 6, at::kBFloat16) * 100;
    const at::Tensor y = norm.forward(x);
    EXPECT_EQ(y.scalar_type(), at::kBFloat16);
    EXPECT_LT(distance(y, norm.forward(x.to(at::kFloat))), 0.03);
  }
}

TEST(Norm, RefusesUnknownNames) {
  EXPECT_EQ(parse_norm("rmsnorm"), NormType::kRms);
  EXPECT_EQ(parse_norm("layernorm"), NormType::kLayer);
  const std::string text = test::error_of<ConfigError>([] { parse_norm("batchnorm"); });
  EXPECT_NE(text.find("batchnorm"), std::string::npos) << text;
}

}  // namespace
}  // namespace locus::nn
