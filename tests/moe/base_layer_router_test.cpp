#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/moe/router_helpers.h"

namespace locus::moe {
namespace {

TEST(BaseLayerRouter, WeighsByTheSigmoidOfTheScore) {
  auto router = make_router(config_of("base_layer"), context_of(1, 2), options_of("base_layer"));
  const at::NoGradGuard no_grad;
  router->named_parameters()["weight"].copy_(tensor_of({{.5, .25}}));
  const Routing routing = router->route(tensor_of({{1., 2.}}), tokens_of(1));
  expect_near(numbers_of(routing.weight_N), {.731059}, 1e-6);
  router->named_parameters()["weight"].zero_();
  expect_near(numbers_of(router->route(tensor_of({{1., 2.}}), tokens_of(1)).weight_N), {.5}, 0);
}

TEST(BaseLayerRouter, BalancesInTraining) {
  const Routing routing =
      identity_router(config_of("base_layer"), 4)->route(random_input(32, 4).abs(), tokens_of(32));
  expect_near(numbers_of(at::bincount(routing.assignment.expert_N, {}, 4)), {8, 8, 8, 8}, 0);
  EXPECT_FALSE(routing.aux_loss.defined());
}

TEST(BaseLayerRouter, TakesTheBestExpertInEvaluationWhateverOthersTake) {
  auto router = identity_router(config_of("base_layer"), 3);
  router->eval();
  at::Tensor x = random_input(30, 3);
  const Routing all = router->route(x, tokens_of(30));
  EXPECT_TRUE(at::equal(all.assignment.expert_N, x.argmax(1)));
  const Routing part = router->route(x.narrow(0, 5, 1), tokens_of(1, 5));
  EXPECT_TRUE(at::equal(part.assignment.expert_N, all.assignment.expert_N.narrow(0, 5, 1)));
}

// What training does and evaluation must not.
TEST(BaseLayerRouter, SaysThatTrainingLooksAhead) {
  auto router = identity_router(config_of("base_layer"), 2);
  EXPECT_FALSE(router->is_causal_in_training());
  const at::Tensor alone = tensor_of({{2., 1.}, {1., 0.}});
  const at::Tensor crowded = tensor_of({{2., 1.}, {9., 0.}});
  EXPECT_EQ(list_of(router->route(alone, tokens_of(2)).assignment.expert_N).size(), 2u);
  EXPECT_NE(
      list_of(router->route(tensor_of({{2., 1.}, {0., 1.}}), tokens_of(2)).assignment.expert_N),
      list_of(router->route(crowded, tokens_of(2)).assignment.expert_N));
}

TEST(BaseLayerRouter, StartsFromRowsAtRightAnglesOfATenthOfLength) {
  for (const int64_t num_experts : {3, 10}) {
    auto router =
        make_router(config_of("base_layer"), context_of(num_experts, 10), options_of("base_layer"));
    const at::Tensor weight = router->named_parameters()["weight"].detach();
    EXPECT_TRUE(at::allclose(at::mm(weight, weight.t()), at::eye(num_experts) * 0.01, 0, 1e-6));
  }
  auto crowded = make_router(config_of("base_layer"), context_of(12, 10), options_of("base_layer"));
  const at::Tensor length_E = crowded->named_parameters()["weight"].detach().norm(2, {1});
  EXPECT_TRUE(at::allclose(length_E, at::full({12}, 0.1)));
}

}  // namespace
}  // namespace locus::moe
