#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <limits>

#include "locus/moe/router_math.h"
#include "tests/moe/router_helpers.h"

namespace locus::moe {
namespace {

using reference::TopK;

constexpr const char* kSigmoid = "score_function = \"sigmoid\"\n";

RouterConfig top_k_config(int64_t k) {
  RouterConfig config = config_of("top_k");
  config.top_k = k;
  return config;
}

TEST(TopKRouter, AgreesWithThePlainLoopForEveryWayToScore) {
  const struct {
    const char* toml;
    TopK reference;
  } cases[] = {
      {"norm_topk_prob = false\n", {.k = 3, .norm = false}},
      {"", {.k = 3}},
      {"score_before_topk = false\n", {.k = 3, .before = false}},
      {kSigmoid, {.k = 3, .sigmoid = true}},
      {"routed_scaling_factor = 2.5\n", {.k = 3, .scale = 2.5}},
      {"num_groups = 4\ntopk_group = 2\n", {.k = 3, .num_groups = 4, .topk_group = 2}},
      {"num_groups = 4\ntopk_group = 2\ngroup_score = \"max\"\n",
       {.k = 3, .num_groups = 4, .topk_group = 2, .group_max = true}},
      {"num_groups = 8\ntopk_group = 3\n", {.k = 3, .num_groups = 8, .topk_group = 3}},
  };
  for (const auto& c : cases) {
    SCOPED_TRACE(c.toml);
    auto router = identity_router(top_k_config(3), 8, c.toml);
    const at::Tensor x = random_input(50, 8);
    expect_routing(router->route(x, tokens_of(50)), reference::top_k(matrix_of(x), c.reference));
  }
}

TEST(TopKRouter, AgreesWithThePlainLoopUnderACapacityLimit) {
  for (const char* policy : {"probs", "position"}) {
    RouterConfig config = top_k_config(2);
    config.capacity_factor = 0.75;
    config.drop_policy = policy;
    auto router = identity_router(config, 4);
    const at::Tensor x = random_input(40, 4);
    const auto pairs = reference::top_k(matrix_of(x), {.k = 2});
    const Routing routing = router->route(x, tokens_of(40));
    expect_routing(routing, reference::limit(pairs, 15, std::string(policy) == "probs"));
    EXPECT_EQ(routing.num_requested, 80);
  }
}

TEST(TopKRouter, PrefersTheLowerExpertAmongTies) {
  auto router = identity_router(top_k_config(2), 4);
  const at::Tensor x = tensor_of({{0, 0, 0, 0}, {1, 2, 2, 2}, {3, 1, 3, 3}});
  EXPECT_EQ(list_of(router->route(x, tokens_of(3)).assignment.expert_N),
            (std::vector<int64_t>{0, 1, 1, 2, 0, 2}));
}

TEST(TopKRouter, GivesMixtralsWeightsByEitherOrderOfSoftmax) {
  // Softmax over all and normalised equals softmax over the chosen.
  const at::Tensor x = random_input(20, 8);
  const auto before = identity_router(top_k_config(2), 8)->route(x, tokens_of(20));
  const auto after =
      identity_router(top_k_config(2), 8, "score_before_topk = false\n")->route(x, tokens_of(20));
  EXPECT_TRUE(at::equal(before.assignment.expert_N, after.assignment.expert_N));
  EXPECT_TRUE(at::allclose(before.weight_N, after.weight_N));
}

TEST(TopKRouter, DoesNotNormaliseTheWeightOfASingleExpert) {
  auto router = identity_router(top_k_config(1), 2);
  const Routing routing = router->route(tensor_of({{1, 0}}), tokens_of(1));
  expect_near(numbers_of(routing.weight_N), {0.731059}, 1e-6);
}

TEST(TopKRouter, MovesTheBiasAgainstTheLoadAndUsesItForTheChoiceAlone) {
  auto router = identity_router(top_k_config(1), 3, "bias_update_rate = 0.5\n");
  router->on_step_end(at::tensor({10.0f, 4.0f, 7.0f}));  // mean 7
  const at::Tensor bias = router->named_buffers()["expert_bias"];
  expect_near(numbers_of(bias), {-0.5, 0.5, 0.0}, 0);
  // p = (.4661, .4217, .1122) chooses 0; with the bias it is 1, at its own weight.
  const at::Tensor x = tensor_of({{1.1, 1.0, -0.3240}});
  const Routing routing = router->route(x, tokens_of(1));
  expect_routing(routing, reference::top_k(matrix_of(x), {.k = 1, .bias = {-0.5, 0.5, 0}}));
  EXPECT_EQ(list_of(routing.assignment.expert_N), (std::vector<int64_t>{1}));
  expect_near(numbers_of(routing.weight_N), {reference::softmax(matrix_of(x))[0][1]}, 1e-6);
}

TEST(TopKRouter, BalancesALopsidedGateByBiasWithoutALoss) {
  RouterConfig config = top_k_config(1);
  config.aux_loss_coeff = 0;
  auto router = identity_router(config, 4, std::string(kSigmoid) + "bias_update_rate = 0.02\n");
  const at::Tensor x = random_input(400, 4) + at::tensor({2.0f, 0.0f, 0.0f, -1.0f});
  for (int step = 0; step < 100; ++step) {
    EXPECT_FALSE(router->route(x, tokens_of(400)).aux_loss.defined());
    if (step < 99) {
      router->on_step_end(router->requested_E);
      router->requested_E = at::Tensor();
    }
  }
  EXPECT_LT(router->requested_E.max().item<double>(), 130);  // of 400 / 4 = 100
  EXPECT_GT(router->requested_E.min().item<double>(), 75);
}

TEST(TopKRouter, LeavesGroupsOutEvenWhenAllScoresAreNegative) {
  // Group scores -3.5 and -1.5: group 1 wins although a masked score of 0 would beat both of its
  // experts.
  auto router = identity_router(top_k_config(2), 4,
                                "num_groups = 2\ntopk_group = 1\nbias_update_rate = 0.1\n");
  const at::NoGradGuard no_grad;
  router->named_buffers()["expert_bias"].copy_(at::tensor({-2.0f, -2.0f, -1.0f, -1.0f}));
  const Routing routing = router->route(at::zeros({1, 4}), tokens_of(1));
  EXPECT_EQ(list_of(routing.assignment.expert_N), (std::vector<int64_t>{2, 3}));
}

TEST(TopKRouter, KeepsTheWeightsOfWhatCapacityLeaves) {
  // Both tokens want expert 0; the second one more. Its partner's weight is that before the drop.
  RouterConfig config = top_k_config(2);
  config.capacity_factor = 0.5;  // ceil(.5 * 2 * 2 / 3) = 1
  auto router = identity_router(config, 3);
  const at::Tensor x = tensor_of({{2, 1, 0}, {3, 0, 1}});
  const Routing routing = router->route(x, tokens_of(2));
  EXPECT_EQ(list_of(routing.assignment.token_N), (std::vector<int64_t>{0, 1, 1}));
  EXPECT_EQ(list_of(routing.assignment.expert_N), (std::vector<int64_t>{1, 0, 2}));
  expect_near(numbers_of(routing.weight_N), {0.268941, 0.880797, 0.119203}, 1e-6);
}

TEST(TopKRouter, KnowsWhetherItsDropsLookAhead) {
  RouterConfig config = top_k_config(2);
  EXPECT_TRUE(identity_router(config, 4)->is_causal_in_training());
  config.capacity_factor = 1;
  EXPECT_FALSE(identity_router(config, 4)->is_causal_in_training());
  config.drop_policy = "position";
  EXPECT_TRUE(identity_router(config, 4)->is_causal_in_training());
}

TEST(TopKRouter, ReportsImpossibleSettings) {
  EXPECT_EQ(only_problem(top_k_config(9), 8),
            "moe.router.top_k = 9: must be 1 to moe.num_experts = 8");
  EXPECT_EQ(only_problem(top_k_config(2), 8, "num_groups = 3\n"),
            "moe.top_k.num_groups = 3: must divide moe.num_experts = 8");
  EXPECT_EQ(only_problem(top_k_config(2), 8, "num_groups = 4\ntopk_group = 5\n"),
            "moe.top_k.topk_group = 5: must be 1 to num_groups = 4");
  EXPECT_EQ(only_problem(top_k_config(3), 8, "num_groups = 4\n"),
            "moe.router.top_k = 3: the 1 chosen groups have only 2 experts");
  EXPECT_EQ(only_problem(top_k_config(2), 8, "score_function = \"relu\"\n"),
            "moe.top_k.score_function = \"relu\" is not known; known: softmax, sigmoid");
  EXPECT_EQ(only_problem(top_k_config(2), 8, std::string(kSigmoid) + "score_before_topk = false\n"),
            "moe.top_k.score_before_topk = false: needs score_function = \"softmax\"");
  EXPECT_NE(only_problem(top_k_config(1), 8, "score_before_topk = false\n").find("learns nothing"),
            std::string::npos);
  only_problem(top_k_config(2), 8, "routed_scaling_factor = 0.0\n");
  only_problem(top_k_config(2), 8, "bias_update_rate = -0.1\n");
}

}  // namespace
}  // namespace locus::moe
