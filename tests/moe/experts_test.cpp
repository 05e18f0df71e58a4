// What every expert kernel must do; runs over the table.
#include "locus/moe/experts.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "locus/base/error.h"
#include "tests/support/expect_error.h"
#include "tests/support/tensors.h"

namespace locus::moe {
namespace {

using test::distance;
using test::random_leaf;
using test::random_tensor;

constexpr int64_t kHidden = 16, kWidth = 24;

struct Result {
  at::Tensor y;
  std::vector<at::Tensor> gradients;  // of x, then of the weights
};

ops::FeedForwardWeights random_weights(ops::Activation activation, int64_t num_experts,
                                       bool with_bias, at::ScalarType type) {
  const int64_t rows = ops::up_rows(activation, kWidth);
  const auto scaled = [type](at::IntArrayRef shape, uint64_t seed) {
    return (random_tensor(shape, seed, type) * 0.3).requires_grad_(true);
  };
  ops::FeedForwardWeights w;
  w.up_EUD = scaled({num_experts, rows, kHidden}, 1);
  w.down_EDF = scaled({num_experts, kHidden, kWidth}, 2);
  if (with_bias) {
    w.up_bias_EU = scaled({num_experts, rows}, 3);
    w.down_bias_ED = scaled({num_experts, kHidden}, 4);
  }
  return w;
}

Result run(std::string_view kernel, const std::vector<int64_t>& counts, ops::Activation activation,
           bool with_bias, at::ScalarType weight_type, at::ScalarType type) {
  int64_t num_rows = 0;
  for (const int64_t count : counts) num_rows += count;
  const auto w =
      random_weights(activation, static_cast<int64_t>(counts.size()), with_bias, weight_type);
  const at::Tensor x = random_leaf({num_rows, kHidden}, 5, type);
  Result result;
  result.y = find_expert_kernel(kernel).run(x, counts, w, activation);
  (result.y * random_tensor({num_rows, kHidden}, 6, type)).sum().backward();
  for (const at::Tensor& leaf : {x, w.up_EUD, w.down_EDF, w.up_bias_EU, w.down_bias_ED}) {
    if (!leaf.defined()) continue;
    // A plain loop leaves the weights of unused experts without a gradient: zero.
    result.gradients.push_back(leaf.grad().defined() ? leaf.grad() : at::zeros_like(leaf));
  }
  return result;
}

class ExpertKernelConformance : public testing::TestWithParam<std::string> {
 protected:
  void expect_like_loop(const std::vector<int64_t>& counts, at::ScalarType weight_type,
                        at::ScalarType type, double tolerance) const {
    for (const char* activation : {"swiglu", "gelu", "gelu_new"}) {
      for (const bool with_bias : {false, true}) {
        const ops::Activation parsed = ops::parse_activation(activation);
        const Result got = run(GetParam(), counts, parsed, with_bias, weight_type, type);
        const Result want = run("loop", counts, parsed, with_bias, weight_type, type);
        EXPECT_EQ(got.y.scalar_type(), type);
        EXPECT_LT(distance(got.y, want.y), tolerance) << activation << " " << with_bias;
        ASSERT_EQ(got.gradients.size(), want.gradients.size());
        for (size_t i = 0; i < got.gradients.size(); ++i) {
          EXPECT_EQ(got.gradients[i].scalar_type(), want.gradients[i].scalar_type());
          EXPECT_LT(distance(got.gradients[i], want.gradients[i]), tolerance)
              << activation << " " << with_bias << " gradient " << i;
        }
      }
    }
  }
};

TEST_P(ExpertKernelConformance, EqualsTheLoopInFloat32) {
  expect_like_loop({40, 7, 1, 65}, at::kFloat, at::kFloat, 1e-5);
}

TEST_P(ExpertKernelConformance, EqualsTheLoopInFloat64) {
  expect_like_loop({3, 1}, at::kDouble, at::kDouble, 1e-12);
}

TEST_P(ExpertKernelConformance, EqualsTheLoopWithExpertsWithoutRows) {
  expect_like_loop({0, 9, 0, 0, 4, 0}, at::kFloat, at::kFloat, 1e-5);
}

TEST_P(ExpertKernelConformance, EqualsTheLoopWithOneExpertAndWithoutRows) {
  expect_like_loop({11}, at::kFloat, at::kFloat, 1e-5);
  expect_like_loop({0, 0, 0}, at::kFloat, at::kFloat, 1e-5);
}

TEST_P(ExpertKernelConformance, ComputesInBfloat16UnderFloat32Weights) {
  expect_like_loop({40, 0, 7}, at::kFloat, at::kBFloat16, 0.1);
}

INSTANTIATE_TEST_SUITE_P(Moe, ExpertKernelConformance, testing::ValuesIn(expert_kernel_names()),
                         [](const auto& instance) { return instance.param; });

TEST(ExpertKernels, AreTheFilesOfTheirFolder) {
  std::set<std::string> files;
  for (const auto& file :
       std::filesystem::directory_iterator(LOCUS_SOURCE_DIR "/locus/moe/experts")) {
    files.insert(file.path().stem().string());
  }
  const std::vector<std::string> names = expert_kernel_names();
  EXPECT_EQ(files, std::set<std::string>(names.begin(), names.end()));
}

TEST(ExpertKernels, UnknownNamesAreRefusedWithTheKnownOnes) {
  const std::string text = test::error_of<ConfigError>([] { find_expert_kernel("loops"); });
  EXPECT_NE(text.find("\"loops\""), std::string::npos) << text;
  for (const std::string& name : expert_kernel_names()) {
    EXPECT_NE(text.find(name), std::string::npos) << text;
  }
}

TEST(Experts, RunEachRowThroughItsOwnNetwork) {
  Experts experts(3, 2, 1, ops::Activation::kGelu, true, "grouped");
  const at::NoGradGuard no_grad;
  const auto named = experts.named_parameters();
  named["up_proj"].fill_(1);
  named["up_proj_bias"].fill_(100);  // gelu(x) = x up there
  named["down_proj"].copy_(at::tensor({1.0, 10.0, 2.0, 20.0, 3.0, 30.0}).view({3, 2, 1}));
  named["down_proj_bias"].copy_(at::tensor({0.0, 0.0, 0.5, 0.5, 0.0, 0.0}).view({3, 2}));
  EXPECT_EQ(experts.num_experts(), 3);
  const at::Tensor x = at::tensor({1.0, 2.0, 3.0, 4.0}).to(at::kFloat).view({2, 2});
  const at::Tensor y = experts.forward(x, {0, 1, 1});
  const at::Tensor want = at::tensor({206.5, 2060.5, 321.0, 3210.0}).view({2, 2});
  EXPECT_LT(distance(y, want), 1e-6);
}

}  // namespace
}  // namespace locus::moe
