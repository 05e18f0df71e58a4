#include "locus/train/optimizer.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "locus/base/error.h"

namespace locus::train {
namespace {

// One parameter's AdamW in double, as in Loshchilov and Hutter (2019).
struct ReferenceAdamW {
  double value, m = 0, v = 0;
  int64_t t = 0;
  void step(const OptimizerConfig& c, double gradient, double lr, double decay) {
    ++t;
    value -= lr * decay * value;
    m = c.adam_beta1 * m + (1 - c.adam_beta1) * gradient;
    v = c.adam_beta2 * v + (1 - c.adam_beta2) * gradient * gradient;
    const double m_hat = m / (1 - std::pow(c.adam_beta1, static_cast<double>(t)));
    const double v_hat = v / (1 - std::pow(c.adam_beta2, static_cast<double>(t)));
    value -= lr * m_hat / (std::sqrt(v_hat) + c.adam_eps);
  }
};

at::Tensor parameter(std::vector<int64_t> shape, float value) {
  return at::full(shape, value).requires_grad_(true);
}

TEST(AdamW, FollowsTheReferenceForMatricesAndVectors) {
  const OptimizerConfig config;
  const NamedTensors parameters{{"a.weight", parameter({2, 3}, 0.5f)},
                                {"norm.weight", parameter({3}, 0.5f)}};
  const auto optimizer = make_optimizer(config, parameters);
  ReferenceAdamW matrix{0.5}, vector{0.5};
  for (int step = 0; step < 20; ++step) {
    const double gradient = std::sin(step + 1.0);
    for (const auto& [name, tensor] : parameters)
      tensor.mutable_grad() = at::full_like(tensor, gradient * 4);
    optimizer->step(0.01, /*grad_scale=*/4.0);
    matrix.step(config, gradient, 0.01, config.weight_decay);
    vector.step(config, gradient, 0.01, 0.0);
  }
  EXPECT_NEAR(parameters[0].second[1][2].item<double>(), matrix.value, 1e-6);
  EXPECT_NEAR(parameters[1].second[1].item<double>(), vector.value, 1e-6);
}

TEST(AdamW, LeavesParametersWithoutGradientAlone) {
  const NamedTensors parameters{{"used", parameter({2, 2}, 1)}, {"unused", parameter({2, 2}, 1)}};
  const auto optimizer = make_optimizer({}, parameters);
  parameters[0].second.mutable_grad() = at::ones({2, 2});
  optimizer->step(0.1, 1.0);
  EXPECT_TRUE(at::equal(parameters[1].second, at::ones({2, 2})));
  EXPECT_FALSE(at::equal(parameters[0].second, at::ones({2, 2})));
  for (const auto& [name, tensor] : optimizer->state()) {
    if (name.starts_with("step.")) {
      EXPECT_EQ(tensor.item<float>(), name == "step.used" ? 1 : 0) << name;
    }
  }
}

TEST(AdamW, ContinuesBitForBitFromItsState) {
  const auto run = [](int from, const NamedTensors& parameters, Optimizer& optimizer, int to) {
    for (int step = from; step < to; ++step) {
      parameters[0].second.mutable_grad() = at::full({2, 2}, std::cos(step));
      optimizer.step(0.01, 1.0);
    }
  };
  const NamedTensors whole{{"w", parameter({2, 2}, 1)}};
  const auto first = make_optimizer({}, whole);
  run(0, whole, *first, 5);
  const NamedTensors resumed{{"w", whole[0].second.detach().clone().requires_grad_(true)}};
  const auto second = make_optimizer({}, resumed);
  const at::NoGradGuard no_grad;
  const NamedTensors from = first->state();
  const NamedTensors into = second->state();
  for (size_t i = 0; i < from.size(); ++i) into[i].second.copy_(from[i].second);
  run(5, whole, *first, 10);
  run(5, resumed, *second, 10);
  EXPECT_TRUE(at::equal(whole[0].second, resumed[0].second));
}

TEST(Optimizer, DecaysMatricesButNoNormsAndNoBiases) {
  EXPECT_TRUE(has_weight_decay("layers.0.self_attn.qkv_proj.weight", at::ones({2, 2})));
  EXPECT_TRUE(has_weight_decay("layers.0.moe.experts.up_proj", at::ones({2, 2, 2})));
  EXPECT_FALSE(has_weight_decay("norm.weight", at::ones({2})));
  EXPECT_FALSE(has_weight_decay("layers.0.moe.experts.up_proj_bias", at::ones({2, 2})));
}

TEST(Optimizer, TheGradientNormIsGlobal) {
  const NamedTensors parameters{
      {"a", parameter({3}, 0)}, {"b", parameter({2, 2}, 0)}, {"none", parameter({1}, 0)}};
  parameters[0].second.mutable_grad() = at::full({3}, 2.0);
  parameters[1].second.mutable_grad() = at::full({2, 2}, 1.0);
  EXPECT_NEAR(gradient_norm(make_parts(parameters, comm::alone())), 4.0, 1e-6);
  parameters[1].second.mutable_grad()[0][0] = NAN;
  EXPECT_TRUE(std::isnan(gradient_norm(make_parts(parameters, comm::alone()))));
}

TEST(Optimizer, AnUnknownNameIsAConfigError) {
  OptimizerConfig config;
  config.type = "adam_w";
  EXPECT_THROW(make_optimizer(config, {}), ConfigError);
}

}  // namespace
}  // namespace locus::train
