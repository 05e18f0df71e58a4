#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <limits>

#include "tests/moe/router_helpers.h"

namespace locus::moe {
namespace {

RouterConfig choice_config(double factor) {
  RouterConfig config = config_of("expert_choice");
  config.capacity_factor = factor;
  return config;
}

at::Tensor threshold_of(Router& router) { return router.named_buffers()["threshold"]; }

TEST(ExpertChoiceRouter, AgreesWithThePlainLoop) {
  for (const int64_t num_tokens : {20, 500}) {
    auto router = identity_router(choice_config(1.5), 5);
    const at::Tensor x = random_input(num_tokens, 5);
    expect_routing(router->route(x, tokens_of(num_tokens)),
                   reference::expert_choice(matrix_of(x), num_tokens * 3 / 10));
  }
}

TEST(ExpertChoiceRouter, TakesTheEarlierOfEqualTokens) {
  auto router = identity_router(choice_config(1.0), 2);
  const Routing routing = router->route(at::zeros({4, 2}), tokens_of(4));
  EXPECT_EQ(list_of(routing.assignment.token_N), (std::vector<int64_t>{0, 1, 0, 1}));
}

TEST(ExpertChoiceRouter, GivesEveryExpertTwiceItsShareByDefault) {
  auto router = identity_router(choice_config(0), 8);
  router->route(random_input(40, 8), tokens_of(40));
  expect_near(numbers_of(router->requested_E), std::vector<double>(8, 10), 0);
}

TEST(ExpertChoiceRouter, LosesToNoTokenThatItLeftOut) {
  auto router = identity_router(choice_config(1.0), 4);
  const at::Tensor x = random_input(64, 4);
  const Routing routing = router->route(x, tokens_of(64));
  const at::Tensor p_TE = at::softmax(x, 1);
  for (int64_t e = 0; e < 4; ++e) {
    const at::Tensor taken =
        routing.assignment.token_N.masked_select(routing.assignment.expert_N == e);
    const at::Tensor column = p_TE.select(1, e);
    const double lowest = column.index_select(0, taken).min().item<double>();
    EXPECT_EQ((column > lowest).sum().item<int64_t>(), 15);
  }
}

TEST(ExpertChoiceRouter, LearnsTheThresholdAsAMeanThenByDecay) {
  // One expert of two looked at: the lowest admitted p of each micro-batch is given.
  auto router = identity_router(choice_config(1.0), 2, "threshold_decay = 0.5\n");
  const auto micro_batch = [&](double p) {
    const double z = std::log(p / (1 - p));
    router->route(tensor_of({{z, 0}, {z - 9, 0}}), tokens_of(2));
    router->on_step_end(router->requested_E);
    return threshold_of(*router)[0].item<double>();
  };
  EXPECT_EQ(threshold_of(*router)[0].item<double>(), 0.5);  // 1 / E before the first
  EXPECT_NEAR(micro_batch(0.6), 0.6, 1e-6);
  EXPECT_NEAR(micro_batch(0.8), 0.7, 1e-6);  // mean of two
  EXPECT_NEAR(micro_batch(0.9), 0.8, 1e-6);  // half old, half new
  EXPECT_NEAR(micro_batch(0.4), 0.6, 1e-6);
  EXPECT_EQ(router->named_buffers()["num_updates"].item<int64_t>(), 4);
}

TEST(ExpertChoiceRouter, ASkippedStepDoesNotMoveTheThreshold) {
  auto router = identity_router(choice_config(1.0), 2);
  router->route(random_input(16, 2, 1), tokens_of(16));
  router->on_step(1, 10);  // the step before ended without on_step_end()
  router->on_step_end(router->requested_E);
  EXPECT_EQ(router->named_buffers()["num_updates"].item<int64_t>(), 0);
}

TEST(ExpertChoiceRouter, EvaluatesEachTokenAlone) {
  auto router = identity_router(choice_config(1.0), 4);
  const at::NoGradGuard no_grad;
  threshold_of(*router).copy_(at::tensor({0.5f, 0.2f, 0.2f, 0.9f}));
  router->eval();
  // The logs of probabilities as logits: p is what stands there.
  const at::Tensor x = at::log(tensor_of({{.4, .3, .25, .05}, {.7, .1, .1, .1}}));
  const Routing both = router->route(x, tokens_of(2));
  EXPECT_EQ(list_of(both.assignment.token_N), (std::vector<int64_t>{0, 0, 1}));
  EXPECT_EQ(list_of(both.assignment.expert_N), (std::vector<int64_t>{1, 2, 0}));
  expect_near(numbers_of(both.weight_N), {.3, .25, .7}, 1e-6);
  const Routing alone = router->route(x.slice(0, 1), tokens_of(1, 1));
  EXPECT_EQ(list_of(alone.assignment.expert_N), (std::vector<int64_t>{0}));
}

TEST(ExpertChoiceRouter, AdmitsAboutAsManyByThresholdAsByTraining) {
  auto router = identity_router(choice_config(1.0), 8);
  for (uint64_t step = 0; step < 60; ++step) {
    router->route(random_input(512, 8, step), tokens_of(512));
    router->on_step_end(router->requested_E);
  }
  router->eval();
  const Routing causal = router->route(random_input(4096, 8, 1000), tokens_of(4096));
  EXPECT_NEAR(static_cast<double>(causal.num_requested) / 4096, 1.0, 0.05);
  router->set_evaluate_with_training_rule(true);
  const at::Tensor before = threshold_of(*router).clone();
  const Routing leaking = router->route(random_input(4096, 8, 1000), tokens_of(4096));
  EXPECT_EQ(leaking.num_requested, 4096);
  EXPECT_TRUE(at::equal(threshold_of(*router), before));
}

TEST(ExpertChoiceRouter, KeepsNanOutOfTheThreshold) {
  auto router = identity_router(choice_config(1.0), 2);
  router->route(at::full({4, 2}, std::numeric_limits<float>::quiet_NaN()), tokens_of(4));
  router->on_step_end(router->requested_E);
  EXPECT_TRUE(threshold_of(*router).isfinite().all().item<bool>());
}

TEST(ExpertChoiceRouter, SaysThatItLooksAhead) {
  EXPECT_FALSE(identity_router(choice_config(1.0), 2)->is_causal_in_training());
}

TEST(ExpertChoiceRouter, ReportsImpossibleSettings) {
  EXPECT_NE(only_problem(choice_config(5), 4).find("at most moe.num_experts = 4"),
            std::string::npos);
  EXPECT_EQ(only_problem(choice_config(1), 4, "threshold_decay = 1.0\n"),
            "moe.expert_choice.threshold_decay = 1: must be 0 or more and below 1");
}

}  // namespace
}  // namespace locus::moe
