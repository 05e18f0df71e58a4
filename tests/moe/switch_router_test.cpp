#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "locus/base/random.h"
#include "tests/moe/router_helpers.h"

namespace locus::moe {
namespace {

constexpr const char* kCalm = "jitter = 0.0\n";

// Six tokens, three experts, worked by hand.
const reference::Matrix kLogits{{2, 0, 1}, {1, 3, 0}, {2, 1, 0}, {3, 0, 0}, {0, 1, 0}, {4, 0, 1}};

TEST(SwitchRouter, GivesTheWorkedExample) {
  RouterConfig config = config_of("switch");
  config.capacity_factor = 1.0;
  config.drop_policy = "position";
  config.aux_loss_coeff = 1.0;
  auto router = identity_router(config, 3, kCalm);
  const Routing routing = router->route(tensor_of(kLogits), tokens_of(6));
  expect_near(numbers_of(routing.probability_TE.mean(0)), {.583717, .302850, .113434}, 1e-6);
  EXPECT_NEAR(routing.aux_loss.item<double>(), 1.470283, 1e-6);
  expect_near(numbers_of(router->requested_E), {4, 2, 0}, 0);
  EXPECT_EQ(routing.num_requested, 6);
}

TEST(SwitchRouter, DropsTokensBeyondCapacityInOrderOfArrival) {
  RouterConfig config = config_of("switch");
  config.capacity_factor = 1.0;  // 2 tokens an expert
  config.drop_policy = "position";
  const Routing routing =
      identity_router(config, 3, kCalm)->route(tensor_of(kLogits), tokens_of(6));
  EXPECT_EQ(list_of(routing.assignment.token_N), (std::vector<int64_t>{0, 1, 2, 4}));
  EXPECT_EQ(list_of(routing.assignment.expert_N), (std::vector<int64_t>{0, 1, 0, 1}));
  expect_near(numbers_of(routing.weight_N), {.665241, .843795, .665241, .576117}, 1e-6);
}

TEST(SwitchRouter, DropsTheLeastProbableTokensFirst) {
  RouterConfig config = config_of("switch");
  config.capacity_factor = 1.0;
  const Routing routing =
      identity_router(config, 3, kCalm)->route(tensor_of(kLogits), tokens_of(6));
  EXPECT_EQ(list_of(routing.assignment.token_N), (std::vector<int64_t>{1, 3, 4, 5}));
}

TEST(SwitchRouter, DropsTheLaterOfTwoEqualTokens) {
  RouterConfig config = config_of("switch");
  config.capacity_factor = 1.0;
  const at::Tensor x = at::tensor({1.0f, 0.0f}).repeat({4, 1});
  const Routing routing = identity_router(config, 2, kCalm)->route(x, tokens_of(4));
  EXPECT_EQ(list_of(routing.assignment.token_N), (std::vector<int64_t>{0, 1}));
}

TEST(SwitchRouter, AgreesWithThePlainLoop) {
  for (const char* policy : {"probs", "position"}) {
    RouterConfig config = config_of("switch");
    config.capacity_factor = 1.1;
    config.drop_policy = policy;
    auto router = identity_router(config, 5, kCalm);
    const at::Tensor x = random_input(100, 5);
    const auto pairs = reference::top_k(matrix_of(x), {.k = 1, .norm = false});
    expect_routing(router->route(x, tokens_of(100)),
                   reference::limit(pairs, 22, std::string(policy) == "probs"));
  }
}

TEST(SwitchRouter, DropsAnyTokenAsLikelyAsAnotherByChance) {
  RouterConfig config = config_of("switch");
  config.capacity_factor = 1.0;
  config.drop_policy = "random";
  auto router = identity_router(config, 2, kCalm);
  const at::Tensor x = at::tensor({1.0f, 0.0f}).repeat({40, 1});  // all want expert 0, which has 20
  std::vector<int64_t> kept(40);
  for (int64_t step = 0; step < 500; ++step) {
    TokenContext tokens = tokens_of(40);
    tokens.step = step;
    const std::vector<int64_t> taken = list_of(router->route(x, tokens).assignment.token_N);
    ASSERT_EQ(taken.size(), 20u);
    for (const int64_t token : taken) ++kept[static_cast<size_t>(token)];
  }
  for (const int64_t count : kept) EXPECT_NEAR(static_cast<double>(count), 250, 50);
}

TEST(SwitchRouter, DropsNothingWhenCapacityHoldsAll) {
  RouterConfig config = config_of("switch");
  config.capacity_factor = 4.0;  // E
  const Routing routing =
      identity_router(config, 4, kCalm)->route(random_input(64, 4), tokens_of(64));
  EXPECT_EQ(routing.assignment.token_N.numel(), 64);
}

TEST(SwitchRouter, JittersTheGateInTrainingWithinItsBoundsAndByPlaceInTheGlobalBatch) {
  // Equal inputs of 1: the logits are the jitter factors.
  auto router = identity_router(config_of("switch"), 2, "jitter = 0.25\n");
  const at::Tensor x = at::ones({2000, 2});
  const auto logit_gap = [](const Routing& routing) {
    return at::log(routing.probability_TE.select(1, 0) / routing.probability_TE.select(1, 1));
  };
  const at::Tensor gap = logit_gap(router->route(x, tokens_of(2000)));
  EXPECT_LE(gap.abs().max().item<double>(), 0.5 + 1e-5);
  EXPECT_GT(gap.abs().max().item<double>(), 0.4);
  EXPECT_NEAR(gap.mean().item<double>(), 0, 0.02);
  EXPECT_NEAR(gap.std().item<double>(), 0.25 * std::sqrt(2.0 / 3.0), 0.01);
  EXPECT_TRUE(at::equal(gap.slice(0, 700),
                        logit_gap(router->route(x.slice(0, 700), tokens_of(1300, 700)))));

  TokenContext next_step = tokens_of(2000);
  next_step.step += 1;
  EXPECT_FALSE(at::equal(gap, logit_gap(router->route(x, next_step))));
  router->eval();
  EXPECT_EQ(logit_gap(router->route(x, tokens_of(2000))).abs().max().item<double>(), 0);
}

TEST(SwitchRouter, GivesTheBalanceLossAGradientThroughProbabilitiesAlone) {
  // d/dz of coeff * E * sum f P with f held: softmax' of f, for one token.
  RouterConfig config = config_of("switch");
  config.aux_loss_coeff = 1.0;
  auto router = identity_router(config, 2, kCalm);
  at::Tensor x = tensor_of({{1, 0}}).requires_grad_();
  router->route(x, tokens_of(1)).aux_loss.backward();
  const double p = 0.731058579, slope = 2 * p * (1 - p);
  expect_near(numbers_of(x.grad()[0]), {slope, -slope}, 1e-6);
}

TEST(SwitchRouter, ReportsAJitterThatTurnsInputsAround) {
  EXPECT_EQ(only_problem(config_of("switch"), 4, "jitter = 1.0\n"),
            "moe.switch.jitter = 1: must be 0 or more and below 1");
}

}  // namespace
}  // namespace locus::moe
