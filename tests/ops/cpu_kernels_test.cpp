// Every instruction set that this processor has, against float64.
//
// The public operations run on float32 and bfloat16 by the CPU's kernels and on float64 by
// libtorch: the same call in two types is the comparison, results and gradients.
#include "locus/ops/cpu/kernels.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <functional>

#include "locus/base/error.h"
#include "locus/ops/cross_entropy.h"
#include "locus/ops/feed_forward.h"
#include "locus/ops/heads.h"
#include "locus/ops/linear.h"
#include "locus/ops/products.h"
#include "locus/ops/rms_norm.h"
#include "locus/ops/rows.h"
#include "tests/support/expect_error.h"
#include "tests/support/tensors.h"

namespace locus::ops {
namespace {

using test::distance;
using test::integers;
using test::random_tensor;

std::vector<std::string> supported() {
  std::vector<std::string> names;
  for (const cpu::Kernels* kernels : cpu::compiled_kernels()) {
    if (kernels->supported()) names.emplace_back(kernels->name);
  }
  return names;
}

class CpuKernels : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { cpu::use_kernels(GetParam()); }
  void TearDown() override { cpu::use_kernels(""); }
};

// Values that bfloat16 holds exactly: then only the sums differ between the types.
at::Tensor coarse(at::IntArrayRef shape, uint64_t seed) {
  return random_tensor(shape, seed).to(at::kBFloat16).to(at::kDouble);
}

using Function = std::function<at::Tensor(const std::vector<at::Tensor>&)>;

// `inputs` are float64. The first is the activation, in `type`; the others are parameters, in
// `parameter_type`. All get gradients.
void expect_like_double(const Function& f, const std::vector<at::Tensor>& inputs,
                        at::ScalarType type, double tolerance,
                        at::ScalarType parameter_type = at::kFloat) {
  const auto run = [&](at::ScalarType first, at::ScalarType others) {
    std::vector<at::Tensor> leaves;
    for (const at::Tensor& x : inputs) {
      leaves.push_back(x.to(leaves.empty() ? first : others).detach().clone().requires_grad_(true));
    }
    const at::Tensor y = f(leaves);
    std::vector<at::Tensor> out{y.detach()};
    y.backward(coarse(y.sizes(), 99).to(y.scalar_type()));
    for (const at::Tensor& leaf : leaves) {
      EXPECT_EQ(leaf.grad().scalar_type(), leaf.scalar_type());
      out.push_back(leaf.grad());
    }
    return out;
  };
  const std::vector<at::Tensor> want = run(at::kDouble, at::kDouble);
  const std::vector<at::Tensor> got = run(type, parameter_type);
  for (size_t i = 0; i < want.size(); ++i) {
    const double scale = want[i].numel() == 0 ? 1.0 : want[i].abs().max().item<double>() + 1e-9;
    EXPECT_LT(distance(got[i].to(at::kDouble) / scale, want[i] / scale), tolerance)
        << (i == 0 ? "result" : "gradient of input " + std::to_string(i - 1));
  }
}

constexpr double kFloatTolerance = 1e-5;
constexpr double kBfloat16Tolerance = 2e-2;

void in_both_types(const Function& f, const std::vector<at::Tensor>& inputs) {
  expect_like_double(f, inputs, at::kFloat, kFloatTolerance);
  expect_like_double(f, inputs, at::kBFloat16, kBfloat16Tolerance);
  expect_like_double(f, inputs, at::kBFloat16, kBfloat16Tolerance, at::kBFloat16);
}

TEST_P(CpuKernels, LinearEqualsFloat64ForAllSizes) {
  struct Size {
    int64_t rows, in, out;
  };
  // Single rows, rests of every tile, strips, sums longer than one pass and than one packing.
  for (const auto [rows, in, out] :
       {Size{1, 1, 1}, Size{1, 600, 70}, Size{3, 17, 33}, Size{4, 64, 5}, Size{5, 31, 32},
        Size{13, 48, 31}, Size{14, 512, 64}, Size{29, 7, 600}, Size{300, 33, 17},
        Size{31, 2500, 40}, Size{130, 1100, 100}}) {
    SCOPED_TRACE(testing::Message() << rows << " x " << in << " -> " << out);
    in_both_types([](const auto& x) { return ops::linear(x[0], x[1], x[2]); },
                  {coarse({rows, in}, 1), coarse({out, in}, 2), coarse({out}, 3)});
  }
}

TEST_P(CpuKernels, LinearTakesRowsThatFallOnOneSetOfTheCache) {
  in_both_types([](const auto& x) { return ops::linear(x[0], x[1], {}); },
                {coarse({40, 2048}, 1), coarse({48, 2048}, 2)});
}

TEST_P(CpuKernels, LinearOfNothingIsNothing) {
  const at::Tensor x = at::empty({0, 8}, at::kFloat).requires_grad_(true);
  const at::Tensor weight = at::ones({3, 8}, at::kFloat).requires_grad_(true);
  const at::Tensor y = ops::linear(x, weight, {});
  EXPECT_EQ(y.sizes(), (std::vector<int64_t>{0, 3}));
  y.sum().backward();
  EXPECT_EQ(weight.grad().abs().sum().item<float>(), 0);
}

TEST_P(CpuKernels, LinearCarriesNaNAndInfinityThroughEveryPath) {
  for (const int64_t rows : {1, 20}) {
    for (const auto type : {at::kFloat, at::kBFloat16}) {
      at::Tensor x = at::ones({rows, 40}, type);
      at::Tensor weight = at::ones({36, 40}, at::kFloat);
      x[rows - 1][39] = NAN;
      weight[35][0] = INFINITY;
      const at::Tensor y = ops::linear(x, weight, {}).to(at::kFloat);
      EXPECT_TRUE(y[rows - 1].isnan().all().item<bool>());
      if (rows == 1) continue;
      EXPECT_TRUE(y[0][35].isinf().item<bool>());
      EXPECT_EQ(y[0][0].item<float>(), 40);
    }
  }
}

TEST_P(CpuKernels, ResultsAreTheSameForEveryNumberOfThreads) {
  const auto leaf = [](at::IntArrayRef shape, uint64_t seed) {
    return random_tensor(shape, seed, at::kFloat).requires_grad_(true);
  };
  const auto run = [&] {
    const at::Tensor x = leaf({300, 130}, 1), up = leaf({2, 600, 130}, 2);
    const at::Tensor down = leaf({2, 130, 300}, 3), vocabulary = leaf({700, 130}, 4);
    const FeedForwardWeights weights{up, {}, down, {}};
    const at::Tensor y = grouped_feed_forward(x, {297, 3}, weights, Activation::kSwiglu);
    const at::Tensor few = ops::linear(y.narrow(0, 0, 2), vocabulary, {});
    const at::Tensor label = at::arange(300, at::kLong);
    const at::Tensor loss = linear_cross_entropy(y, vocabulary, label).loss_sum + few.sum();
    loss.backward();
    return std::vector<at::Tensor>{loss.detach(), x.grad(), up.grad(), down.grad(),
                                   vocabulary.grad()};
  };
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const std::vector<at::Tensor> one = run();
  at::set_num_threads(3);
  const std::vector<at::Tensor> three = run();
  at::set_num_threads(threads);
  for (size_t i = 0; i < one.size(); ++i) EXPECT_TRUE(one[i].equal(three[i])) << i;
}

TEST_P(CpuKernels, RmsNormEqualsFloat64) {
  for (const int64_t size : {1, 7, 64, 513, 1500}) {
    SCOPED_TRACE(size);
    const Function norm = [](const auto& x) { return ops::rms_norm(x[0], x[1], 1e-5); };
    expect_like_double(norm, {coarse({300, size}, 1), coarse({size}, 2)}, at::kFloat, 1e-5);
    expect_like_double(norm, {coarse({300, size}, 1), coarse({size}, 2)}, at::kBFloat16, 2e-2);
  }
}

TEST_P(CpuKernels, RmsNormReadsRowsOutOfAWiderMatrix) {
  in_both_types([](const auto& x) { return ops::rms_norm(x[0].narrow(2, 3, 8), x[1], 1e-5); },
                {coarse({2, 5, 20}, 1), coarse({8}, 2)});
}

TEST_P(CpuKernels, HeadsAreRotatedAndTurnedBack) {
  const at::Tensor angle = random_tensor({2, 5, 6}, 1);
  for (const bool rotated : {false, true}) {
    in_both_types(
        [&](const auto& x) {
          const auto type = x[0].scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
          return to_heads(x[0].narrow(2, 4, 36), 3, rotated ? angle.cos().to(type) : at::Tensor(),
                          rotated ? angle.sin().to(type) : at::Tensor());
        },
        {coarse({2, 5, 44}, 2)});
  }
}

TEST_P(CpuKernels, GroupedFeedForwardEqualsFloat64) {
  for (const char* name : {"swiglu", "gelu", "gelu_new"}) {
    const Activation activation = parse_activation(name);
    for (const bool with_bias : {false, true}) {
      SCOPED_TRACE(testing::Message() << name << (with_bias ? " with bias" : ""));
      const std::vector<int64_t> counts{0, 3, 130, 1, 0, 40};
      constexpr int64_t kHidden = 72, kWidth = 301;
      const int64_t up = up_rows(activation, kWidth);
      std::vector<at::Tensor> inputs{coarse({174, kHidden}, 1), coarse({6, up, kHidden}, 2) * 0.25,
                                     coarse({6, kHidden, kWidth}, 3) * 0.25};
      if (with_bias) {
        inputs.push_back(coarse({6, up}, 4));
        inputs.push_back(coarse({6, kHidden}, 5));
      }
      in_both_types(
          [&](const auto& x) {
            FeedForwardWeights weights;
            weights.up_EUD = x[1];
            weights.down_EDF = x[2];
            if (with_bias) {
              weights.up_bias_EU = x[3];
              weights.down_bias_ED = x[4];
            }
            return grouped_feed_forward(x[0], counts, weights, activation);
          },
          inputs);
    }
  }
}

TEST_P(CpuKernels, ActivationsHoldAtTheEndsOfTheRange) {
  for (const char* name : {"swiglu", "gelu", "gelu_new"}) {
    const Activation activation = parse_activation(name);
    const std::vector<double> gate{-1e30, -200, -90, -88, -20, -4, -1e-6, 0, 1e-6, 4, 20, 90, 1e30};
    const at::Tensor x = at::tensor(gate, at::kDouble).unsqueeze(1);
    const at::Tensor up = activation == Activation::kSwiglu
                              ? at::cat({at::ones({1, 1, 1}), at::zeros({1, 1, 1})}, 1)
                              : at::ones({1, 1, 1});
    // Of SwiGLU only the gate sees x; its up projection comes from a bias of one.
    const at::Tensor bias =
        activation == Activation::kSwiglu ? at::tensor({0.0, 1.0}).view({1, 2}) : at::zeros({1, 1});
    const auto run = [&](at::ScalarType type) {
      const at::Tensor leaf = x.to(type).detach().requires_grad_(true);
      const at::Tensor y = grouped_feed_forward(
          leaf, {x.size(0)},
          {up.to(type), bias.to(type), at::ones({1, 1, 1}, type), at::zeros({1, 1}, type)},
          activation);
      y.sum().backward();
      return std::pair(y.detach(), leaf.grad());
    };
    const auto [want, want_slope] = run(at::kDouble);
    const auto [got, slope] = run(at::kFloat);
    EXPECT_LT(distance(got, want), 1e-5) << name;
    EXPECT_LT(distance(slope, want_slope), 1e-5) << name;
  }
}

TEST_P(CpuKernels, CombineRowsEqualsFloat64) {
  const at::Tensor token = integers({3, 0, 3, 1, 0, 3, 5});
  in_both_types([&](const auto& x) { return combine_rows(x[0], token, x[1].to(at::kFloat), 6); },
                {coarse({7, 530}, 1), coarse({7}, 2)});
}

TEST_P(CpuKernels, CrossEntropyEqualsFloat64) {
  const at::Tensor label = integers({0, 99, -100, 50, 7, 7, -1, 98, 1});
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    expect_like_double(
        [&](const auto& x) { return linear_cross_entropy(x[0], x[1], label).loss_sum; },
        {coarse({9, 37}, 1), coarse({100, 37}, 2)}, type,
        type == at::kFloat ? kFloatTolerance : kBfloat16Tolerance);
  }
}

INSTANTIATE_TEST_SUITE_P(Ops, CpuKernels, testing::ValuesIn(supported()),
                         [](const auto& param) { return param.param; });

TEST(CpuKernelShapes, ThatDoNotFitAreRefused) {
  const auto zeros = [](at::IntArrayRef shape) { return at::zeros(shape, at::kFloat); };
  EXPECT_THROW(ops::linear(zeros({5, 8}), zeros({6, 9}), {}), std::exception);
  EXPECT_THROW(ops::linear(zeros({5, 8}), zeros({6, 8}), zeros({3})), std::exception);
  EXPECT_THROW(ops::rms_norm(zeros({5, 8}), zeros({4}), 1e-5), std::exception);
  EXPECT_THROW(to_heads(zeros({4, 6, 8}), 3, {}, {}), std::exception);
  EXPECT_THROW(to_heads(zeros({4, 6, 8}), 2, zeros({1, 6, 2}), zeros({1, 6, 2})), std::exception);
  EXPECT_THROW(linear_cross_entropy(zeros({5, 8}), zeros({7, 9}), integers({0, 0, 0, 0, 0})),
               std::exception);
  const FeedForwardWeights weights{zeros({1, 6, 8}), {}, zeros({1, 8, 3}), {}};
  EXPECT_THROW(grouped_feed_forward(zeros({5, 8}), {9}, weights, Activation::kSwiglu),
               std::exception);
  EXPECT_THROW(grouped_feed_forward(zeros({5, 8}), {2}, weights, Activation::kSwiglu),
               std::exception);
  EXPECT_THROW(grouped_feed_forward(zeros({5, 8}), {5}, weights, Activation::kGelu),
               std::exception);
}

TEST(CpuKernelChoice, NamesThoseThatRunHere) {
  const std::string what = test::error_of<ConfigError>([] { cpu::use_kernels("avx9000"); });
  EXPECT_NE(what.find("avx9000"), std::string::npos);
  EXPECT_NE(what.find(cpu::kernels().name), std::string::npos);
}

// The last one, but for products of bfloat16 that would be slower than those of float32.
TEST(CpuKernelChoice, TakesTheBestOfThisProcessor) {
  std::string best;
  for (const cpu::Kernels* kernels : cpu::compiled_kernels()) {
    const bool pays = !kernels->bfloat16_products || cpu::bfloat16_products_pay();
    if (kernels->supported() && pays) best = kernels->name;
  }
  EXPECT_EQ(std::string(cpu::kernels().name), best);
}

}  // namespace
}  // namespace locus::ops
