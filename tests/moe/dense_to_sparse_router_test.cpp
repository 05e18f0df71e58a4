// Numbered as the properties of the gate's specification.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "locus/base/format.h"
#include "tests/moe/router_helpers.h"

namespace locus::moe {
namespace {

constexpr const char* kName = "dense_to_sparse";
const reference::Matrix kLogits{{2, 1, 0, -3}, {0, 0, 0, 0}, {5, -5, 1, 1}};

std::string at_temperature(double temperature, const std::string& more = "") {
  return format(
      "max_temperature = {:f}\nmin_temperature = 0.000001\nanneal_schedule = \"none\"\n{}",
      temperature, more);
}

constexpr const char* kCalm = "noise = \"none\"\n";

std::vector<int64_t> active_counts(const Routing& routing, int64_t num_tokens) {
  return list_of(at::bincount(routing.assignment.token_N, {}, num_tokens));
}

std::vector<int64_t> active_at(double temperature, const std::string& more = kCalm) {
  auto router = identity_router(config_of(kName), 4, at_temperature(temperature, more));
  return active_counts(router->route(tensor_of(kLogits), tokens_of(3)), 3);
}

double mean_active(int64_t num_experts, double temperature, double logit_std, int64_t num_tokens) {
  auto router = identity_router(config_of(kName), num_experts, at_temperature(temperature));
  const at::Tensor x = random_input(num_tokens, num_experts) * logit_std;
  return static_cast<double>(router->route(x, tokens_of(num_tokens)).assignment.token_N.numel()) /
         static_cast<double>(num_tokens);
}

TEST(DenseToSparseRouter, GivesTheWorkedExamples) {
  EXPECT_EQ(active_at(2), (std::vector<int64_t>{4, 4, 4}));
  EXPECT_EQ(active_at(1), (std::vector<int64_t>{4, 4, 3}));
  EXPECT_EQ(active_at(0.5), (std::vector<int64_t>{3, 4, 1}));
  EXPECT_EQ(active_at(0.25), (std::vector<int64_t>{2, 4, 1}));
  EXPECT_EQ(active_at(0.1), (std::vector<int64_t>{1, 4, 1}));

  const auto weights = [](const char* kind) {
    auto router = identity_router(config_of(kName), 4,
                                  at_temperature(0.5, format("{}weights = \"{}\"\n", kCalm, kind)));
    return numbers_of(router->route(tensor_of(kLogits), tokens_of(3)).weight_N);
  };
  expect_near(weights("clean"), {.662272, .243636, .089629, .25, .25, .25, .25, .964621}, 1e-6);
  expect_near(weights("noisy"), {.866779, .117306, .015876, .25, .25, .25, .25, .99933}, 1e-6);
}

TEST(DenseToSparseRouter, Property1HasAllExpertsWhereTheTemperatureIsHigh) {
  auto router = identity_router(config_of(kName), 8, at_temperature(1e6));
  const Routing routing = router->route(random_input(50, 8), tokens_of(50));
  EXPECT_EQ(routing.assignment.token_N.numel(), 400);
  EXPECT_TRUE(at::allclose(routing.probability_TE, at::full({50, 8}, 0.125), 0, 1e-5));
}

TEST(DenseToSparseRouter, Property2IsSwitchWithoutALimitWhereTheTemperatureIsLow) {
  const at::Tensor x = random_input(50, 8);
  auto router = identity_router(config_of(kName), 8,
                                at_temperature(1e-5, std::string(kCalm) + "weights = \"clean\"\n"));
  auto by_switch = identity_router(config_of("switch"), 8, "jitter = 0.0\n");
  const Routing sparse = router->route(x, tokens_of(50));
  const Routing top_1 = by_switch->route(x, tokens_of(50));
  EXPECT_TRUE(at::equal(sparse.assignment.token_N, top_1.assignment.token_N));
  EXPECT_TRUE(at::equal(sparse.assignment.expert_N, top_1.assignment.expert_N));
  EXPECT_TRUE(at::allclose(sparse.weight_N, top_1.weight_N));
}

TEST(DenseToSparseRouter, Property3LeavesNoTokenWithoutItsBestExpert) {
  for (const double temperature : {5.0, 1.0, 0.3, 0.01, 1e-5}) {
    auto router = identity_router(config_of(kName), 8, at_temperature(temperature));
    const Routing routing = router->route(random_input(300, 8), tokens_of(300));
    const at::Tensor active_TE =
        at::zeros({300, 8}, at::kBool)
            .index_put({routing.assignment.token_N, routing.assignment.expert_N},
                       at::ones({}, at::kBool));
    EXPECT_TRUE(active_TE.gather(1, routing.probability_TE.argmax(1, true)).all().item<bool>());
  }
}

// With the same noise, each expert that has left stays away as the gate sharpens.
TEST(DenseToSparseRouter, Property4HasNoMoreExpertsAtALowerTemperature) {
  const at::Tensor x = random_input(500, 8).to(at::kDouble);
  std::vector<int64_t> before(500, 8);
  for (double temperature = 4; temperature > 0.01; temperature *= 0.8) {
    auto router = identity_router(config_of(kName), 8, at_temperature(temperature));
    router->named_parameters()["weight"].set_data(at::eye(8, at::kDouble));
    const std::vector<int64_t> now = active_counts(router->route(x, tokens_of(500)), 500);
    for (size_t t = 0; t < now.size(); ++t) EXPECT_LE(now[t], before[t]) << "token " << t;
    before = now;
  }
}

TEST(DenseToSparseRouter, Property5HasAsManyExpertsAsTheClosedFormOfTwoSays) {
  const int64_t num_tokens = 100'000;
  for (const double gap : {0.0, 2.0}) {
    for (const double temperature : {2.0, 0.5, 0.1}) {
      auto router = identity_router(config_of(kName), 2, at_temperature(temperature));
      const at::Tensor x =
          at::stack({at::full({num_tokens}, gap), at::zeros({num_tokens})}, 1).to(at::kFloat);
      const double mean =
          static_cast<double>(router->route(x, tokens_of(num_tokens)).assignment.token_N.numel()) /
          static_cast<double>(num_tokens);
      const auto sigmoid = [](double z) { return 1 / (1 + std::exp(-z)); };
      const double a = temperature * std::log(999.0);
      const double wanted = sigmoid(a + gap) + sigmoid(a - gap);
      const double variance = (wanted - 1) * (2 - wanted);
      EXPECT_NEAR(mean, wanted, 3 * std::sqrt(variance / num_tokens) + 1e-6)
          << gap << " " << temperature;
    }
  }
}

// Two cells of the specification's table of means, with noise.
TEST(DenseToSparseRouter, HasAsManyExpertsOnAverageAsMeasured) {
  EXPECT_NEAR(mean_active(8, 0.5, 0, 50'000), 6.40, 0.03);
  EXPECT_NEAR(mean_active(8, 0.2, 2, 50'000), 1.99, 0.03);
}

TEST(DenseToSparseRouter, Property6KeepsToTheBoundsOfLogitsWithoutNoise) {
  const at::Tensor x = random_input(400, 8);
  const at::Tensor sorted_TE = std::get<0>(x.sort(1, /*descending=*/true));
  const at::Tensor range_T = sorted_TE.select(1, 0) - sorted_TE.select(1, 7);
  const at::Tensor gap_T = sorted_TE.select(1, 0) - sorted_TE.select(1, 1);
  for (const double temperature : {1.0, 0.5, 0.2, 0.1}) {
    auto router = identity_router(config_of(kName), 8, at_temperature(temperature, kCalm));
    const std::vector<int64_t> count = active_counts(router->route(x, tokens_of(400)), 400);
    for (int64_t t = 0; t < 400; ++t) {
      const auto active = count[static_cast<size_t>(t)];
      if (temperature > range_T[t].item<double>() / std::log(999.0 / 7)) {
        EXPECT_EQ(active, 8) << t;
      }
      if (temperature <= gap_T[t].item<double>() / std::log(1000.0)) {
        EXPECT_EQ(active, 1) << t;
      }
    }
  }
}

TEST(DenseToSparseRouter, Property7DrawsFromTheSoftmaxAtAnyTemperatureOnceItTakesOne) {
  RouterConfig config = config_of(kName);
  config.top_k = 1;
  const int64_t num_tokens = 40'000;
  const at::Tensor x = at::tensor({2.f, 1.f, 0.f, -1.f}).repeat({num_tokens, 1});
  const std::vector<double> wanted{.6439, .2369, .0871, .0321};
  for (const double temperature : {2.0, 0.5, 0.05}) {
    auto router = identity_router(config, 4, at_temperature(temperature, "sparse_steps = 10\n"));
    router->on_step(10, 100);
    const Routing routing = router->route(x, tokens_of(num_tokens));
    ASSERT_EQ(routing.assignment.token_N.numel(), num_tokens);
    const std::vector<double> count = numbers_of(at::bincount(routing.assignment.expert_N, {}, 4));
    double chi_square = 0;
    for (size_t e = 0; e < 4; ++e) {
      const double expected = wanted[e] * static_cast<double>(num_tokens);
      chi_square += (count[e] - expected) * (count[e] - expected) / expected;
    }
    EXPECT_LT(chi_square, 16.3) << temperature;  // of 3 degrees of freedom, 99.9%
  }
}

double temperature_after(const std::string& toml, int64_t step, int64_t first_step = 0) {
  RouterContext context = context_of(4, 4);
  context.first_step = first_step;
  auto router = make_router(config_of(kName), context, options_of(kName, toml));
  router->on_step(step, 20'000);
  return router->named_buffers()["temperature"].item<double>();
}

TEST(DenseToSparseRouter, Property8FollowsItsSchedules) {
  const std::string linear = "anneal_steps = 5000\n";
  EXPECT_DOUBLE_EQ(temperature_after(linear, 0), 2);
  EXPECT_DOUBLE_EQ(temperature_after(linear, 1000), 1.7);
  EXPECT_DOUBLE_EQ(temperature_after(linear, 2500), 1.25);
  EXPECT_NEAR(temperature_after(linear, 4999), 0.5003, 1e-9);
  EXPECT_DOUBLE_EQ(temperature_after(linear, 5000), 0.5);
  EXPECT_DOUBLE_EQ(temperature_after(linear, 19'000), 0.5);
  const std::string exponential = linear + "anneal_schedule = \"exponential\"\n";
  EXPECT_NEAR(temperature_after(exponential, 1000), 1.515717, 1e-6);
  EXPECT_NEAR(temperature_after(exponential, 2500), 1, 1e-12);
  EXPECT_NEAR(temperature_after(exponential, 4999), 0.500139, 1e-6);
  EXPECT_DOUBLE_EQ(temperature_after(linear + "anneal_schedule = \"none\"\n", 9000), 2);
  // Half of the steps that are left, from where the experts came.
  EXPECT_DOUBLE_EQ(temperature_after("", 12'500, 5000), 0.5);
  EXPECT_DOUBLE_EQ(temperature_after("", 8750, 5000), 1.25);
}

TEST(DenseToSparseRouter, TakesTopKExpertsAtMostOnceItIsSparse) {
  RouterConfig config = config_of(kName);
  config.top_k = 2;
  const at::Tensor x = at::zeros({40, 6});
  const auto active = [&](const char* toml, int64_t step) {
    auto router = identity_router(config, 6, toml);
    router->on_step(step, 1000);
    return router->route(x, tokens_of(40)).assignment.token_N.numel();
  };
  const char* calm = "noise = \"none\"\nanneal_steps = 100\n";
  EXPECT_EQ(active(calm, 99), 240);
  EXPECT_EQ(active(calm, 100), 80);
  EXPECT_EQ(active("noise = \"none\"\nanneal_steps = 100\nsparse_steps = 300\n", 299), 240);
  EXPECT_EQ(active("noise = \"none\"\nanneal_steps = 100\nsparse_steps = 300\n", 300), 80);
  EXPECT_EQ(active("noise = \"none\"\nsparse_steps = -1\n", 999), 240);
}

TEST(DenseToSparseRouter, Property9HasTheReleasedBalanceLossWhenAsked) {
  RouterConfig config = config_of(kName);
  config.aux_loss_coeff = 1;
  const auto loss = [&](const at::Tensor& x, double temperature, const char* weights) {
    auto router = identity_router(
        config, x.size(1),
        at_temperature(temperature,
                       format("{}balance = \"active\"\nweights = \"{}\"\n", kCalm, weights)));
    return router->route(x, tokens_of(x.size(0))).aux_loss.item<double>();
  };
  EXPECT_NEAR(loss(tensor_of(kLogits), 0.5, "clean"), 3.354316, 1e-5);
  EXPECT_NEAR(loss(random_input(30, 8), 5, "noisy"), 8, 1e-5);  // dense: E, whatever the balance
  const double balanced = loss(at::eye(4).repeat({5, 1}) * 3, 0.01, "clean");
  EXPECT_GT(balanced, 0);
  EXPECT_LE(balanced, 1);
}

TEST(DenseToSparseRouter, BalancesFirstChoicesAsSwitchDoesAtAnyTemperature) {
  RouterConfig config = config_of(kName), switch_config = config_of("switch");
  config.aux_loss_coeff = switch_config.aux_loss_coeff = 1;
  const at::Tensor x = random_input(40, 6);
  const double wanted = identity_router(switch_config, 6, "jitter = 0.0\n")
                            ->route(x, tokens_of(40))
                            .aux_loss.item<double>();
  for (const double temperature : {5.0, 0.5, 0.01}) {
    auto router = identity_router(config, 6, at_temperature(temperature, kCalm));
    EXPECT_NEAR(router->route(x, tokens_of(40)).aux_loss.item<double>(), wanted, 1e-6);
  }
}

TEST(DenseToSparseRouter, Property13EvaluatesWithoutNoise) {
  auto router = identity_router(config_of(kName), 6, at_temperature(0.5));
  router->eval();
  const at::Tensor x = random_input(40, 6);
  const Routing once = router->route(x, tokens_of(40)), again = router->route(x, tokens_of(40, 99));
  EXPECT_TRUE(at::equal(once.assignment.expert_N, again.assignment.expert_N));
  EXPECT_TRUE(at::equal(once.weight_N, again.weight_N));
}

TEST(DenseToSparseRouter, EvaluatesByTheTopKBestWhenAskedWhateverTheTemperature) {
  RouterConfig config = config_of(kName);
  config.top_k = 2;
  const at::Tensor x = random_input(40, 6);
  for (const double temperature : {5.0, 0.7}) {
    auto router =
        identity_router(config, 6, at_temperature(temperature, "evaluate_top_k = true\n"));
    router->eval();
    std::vector<reference::Pair> wanted = reference::top_k(matrix_of(x), {.k = 2, .norm = false});
    std::sort(wanted.begin(), wanted.end(), [](const auto& a, const auto& b) {
      return std::pair(a.token, a.expert) < std::pair(b.token, b.expert);
    });
    expect_routing(router->route(x, tokens_of(40)), wanted);
  }
}

TEST(DenseToSparseRouter, NamesWrongSettings) {
  EXPECT_EQ(only_problem(config_of(kName), 4, "min_temperature = 0.0\n"),
            "moe.dense_to_sparse.min_temperature = 0: must be above 0, logits are divided by it");
  EXPECT_EQ(only_problem(config_of(kName), 4, "max_temperature = 0.2\n"),
            "moe.dense_to_sparse.max_temperature = 0.2: must not be below min_temperature = 0.5");
  EXPECT_EQ(only_problem(config_of(kName), 4, "threshold = 0.25\n"),
            "moe.dense_to_sparse.threshold = 0.25: must be 0 or more, and below 1 / "
            "moe.num_experts = 0.25: an even gate would leave no expert");
}

}  // namespace
}  // namespace locus::moe
