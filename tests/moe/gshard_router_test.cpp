#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/moe/router_helpers.h"

namespace locus::moe {
namespace {

constexpr const char* kBoth = "random_second = false\n";
const reference::Matrix kLogits{{2, 1, 0, -1}, {0, 2, 1, 0}, {3, 0, 2, 0}};

TEST(GShardRouter, GivesTheWorkedExample) {
  auto router = identity_router(config_of("gshard"), 4, kBoth);
  const Routing routing = router->route(tensor_of(kLogits), tokens_of(3));
  EXPECT_EQ(list_of(routing.assignment.token_N), (std::vector<int64_t>{0, 0, 1, 1, 2, 2}));
  EXPECT_EQ(list_of(routing.assignment.expert_N), (std::vector<int64_t>{0, 1, 1, 2, 0, 2}));
  expect_near(numbers_of(routing.weight_N), {.731059, .268941, .731059, .268941, .731059, .268941},
              1e-6);
}

TEST(GShardRouter, KeepsTheSecondExpertByTwiceItsProbability) {
  // Second probabilities .236883, .224515, .250692: kept with .473766, .449030, .501385.
  const int64_t copies = 20000;
  auto router = identity_router(config_of("gshard"), 4);
  const at::Tensor x = tensor_of(kLogits).repeat({copies, 1});
  const Routing routing = router->route(x, tokens_of(3 * copies));
  const at::Tensor per_token =
      at::bincount(routing.assignment.token_N, {}, 3 * copies).reshape({copies, 3}) - 1;
  expect_near(numbers_of(per_token.to(at::kDouble).mean(0)), {.473766, .449030, .501385}, 0.012);

  router->eval();
  EXPECT_EQ(router->route(x, tokens_of(3 * copies)).assignment.token_N.numel(), 6 * copies);
}

TEST(GShardRouter, AlwaysKeepsASecondExpertOfProbabilityOneHalf) {
  auto router = identity_router(config_of("gshard"), 2);
  const Routing routing = router->route(at::zeros({500, 2}), tokens_of(500));
  EXPECT_EQ(routing.assignment.token_N.numel(), 1000);
}

TEST(GShardRouter, WithTwoExpertsGivesSoftmaxWeights) {
  auto router = identity_router(config_of("gshard"), 2, kBoth);
  const at::Tensor x = random_input(30, 2);
  const Routing routing = router->route(x, tokens_of(30));
  const auto p = reference::softmax(matrix_of(x));
  const auto tokens = list_of(routing.assignment.token_N);
  const auto experts = list_of(routing.assignment.expert_N);
  const auto weights = numbers_of(routing.weight_N);
  ASSERT_EQ(weights.size(), 60u);
  for (size_t i = 0; i < weights.size(); ++i) {
    EXPECT_NEAR(weights[i], p[static_cast<size_t>(tokens[i])][static_cast<size_t>(experts[i])],
                1e-6);
  }
}

TEST(GShardRouter, AgreesWithThePlainLoopUnderACapacityLimit) {
  for (const char* policy : {"probs", "position"}) {
    for (const double factor : {0.5, 0.75, 1.0}) {
      RouterConfig config = config_of("gshard");
      config.capacity_factor = factor;
      config.drop_policy = policy;
      auto router = identity_router(config, 4, kBoth);
      const at::Tensor x = random_input(40, 4);
      const auto capacity = static_cast<int64_t>(factor * 20);
      expect_routing(router->route(x, tokens_of(40)),
                     reference::limit(reference::gshard(matrix_of(x), {}), capacity,
                                      std::string(policy) == "probs"));
    }
  }
}

TEST(GShardRouter, LetsSecondChoicesQueueBehindTheFirstOnes) {
  // Token 0 has expert 1 second, tokens 1 and 2 have it first: two places, both for the firsts.
  RouterConfig config = config_of("gshard");
  config.capacity_factor = 1.0;  // ceil(2 * 3 / 3) = 2
  config.drop_policy = "position";
  auto router = identity_router(config, 3, kBoth);
  const Routing routing = router->route(tensor_of({{3, 2, 0}, {1, 3, 0}, {0, 3, 1}}), tokens_of(3));
  EXPECT_EQ(list_of(routing.assignment.token_N), (std::vector<int64_t>{0, 1, 1, 2, 2}));
  EXPECT_EQ(list_of(routing.assignment.expert_N), (std::vector<int64_t>{0, 1, 0, 1, 2}));
  EXPECT_NEAR(routing.weight_N[0].item<double>(), .731059, 1e-6);
  EXPECT_FALSE(router->is_causal_in_training());
}

TEST(GShardRouter, CanNormaliseAfterTheDrops) {
  RouterConfig config = config_of("gshard");
  config.capacity_factor = 1.0;
  config.drop_policy = "position";
  auto router = identity_router(config, 3, std::string(kBoth) + "normalize = \"after\"\n");
  const Routing routing = router->route(tensor_of({{3, 2, 0}, {1, 3, 0}, {0, 3, 1}}), tokens_of(3));
  expect_near(numbers_of(routing.weight_N), {1, .880797, .119203, .880797, .119203}, 1e-6);
}

TEST(GShardRouter, BalancesFirstChoices) {
  RouterConfig config = config_of("gshard");
  config.aux_loss_coeff = 1.0;
  auto router = identity_router(config, 4, kBoth);
  const Routing routing = router->route(tensor_of(kLogits), tokens_of(3));
  const auto p = reference::softmax(kLogits);
  EXPECT_NEAR(routing.aux_loss.item<double>(), reference::balance_loss(p, {{0}, {1}, {0}}, 0, 3),
              1e-6);
  expect_near(numbers_of(router->requested_E), {2, 2, 2, 0}, 0);
}

TEST(GShardRouter, ReportsAnUnknownNormalisation) {
  EXPECT_EQ(only_problem(config_of("gshard"), 4, "normalize = \"never\"\n"),
            "moe.gshard.normalize = \"never\" is not known; known: before, after");
}

}  // namespace
}  // namespace locus::moe
