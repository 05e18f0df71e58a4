#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/moe/router_helpers.h"

namespace locus::moe {
namespace {

const reference::Matrix kScores{{1, .5}, {2, 0}, {.3, .1}, {-1, .2}};

// Without the light router's part of the loss, which is that of an untrained one.
double light_loss(Router& router, const TokenContext& tokens, const at::Tensor& expert_T) {
  const at::NoGradGuard no_grad;
  auto parameters = router.named_parameters();
  const at::Tensor light_TE =
      at::embedding(parameters["light_embedding"], tokens.id_T).mm(parameters["light_weight"].t());
  return at::nll_loss(at::log_softmax(light_TE, 1), expert_T).item<double>();
}

TEST(StableMoeRouter, HasTheBalanceLossOfTheWorkedExample) {
  auto router = identity_router(config_of("stablemoe"), 2,
                                "balance_loss_coeff = 1.0\ndistill_loss_coeff = 0.5\n");
  at::Tensor x = tensor_of(kScores).requires_grad_();
  const TokenContext tokens = tokens_of(4);
  const Routing routing = router->route(x, tokens);
  EXPECT_EQ(list_of(routing.assignment.expert_N), (std::vector<int64_t>{0, 0, 0, 1}));
  EXPECT_NEAR(routing.balance_loss.item<double>() * 4, 0.818232, 1e-5);
  EXPECT_NEAR(
      (routing.aux_loss - routing.balance_loss).item<double>(),
      0.5 * light_loss(*router, tokens, at::tensor(std::vector<int64_t>{0, 0, 0, 1}, at::kLong)),
      1e-6);
  routing.aux_loss.backward();
  expect_near(numbers_of(x.grad() * 4), {.098306, 0, .052497, 0, .122229, 0, 0, -.123758}, 1e-5);
}

TEST(StableMoeRouter, HasNoBalanceLossWhereLoadsAreEven) {
  auto router = identity_router(config_of("stablemoe"), 2, "balance_loss_coeff = 1.0\n");
  const Routing routing = router->route(tensor_of({{1, 0}, {0, 3}}), tokens_of(2));
  EXPECT_EQ(routing.balance_loss.item<double>(), 0);
}

TEST(StableMoeRouter, GoesByTokenIdsAloneInItsSecondStage) {
  auto router = identity_router(config_of("stablemoe"), 4);
  router->on_step(100, 1000);
  TokenContext tokens = tokens_of(40);
  tokens.id_T = tokens.global_index_T % 10;
  at::Tensor x = random_input(40, 4).requires_grad_();
  const Routing routing = router->route(x, tokens);
  const at::Tensor expert_T = routing.assignment.expert_N;
  for (int64_t t = 10; t < 40; ++t) {
    EXPECT_EQ(expert_T[t].item<int64_t>(), expert_T[t % 10].item<int64_t>()) << t;
  }
  EXPECT_FALSE(routing.aux_loss.defined());
  routing.weight_N.sum().backward();
  auto parameters = router->named_parameters();
  EXPECT_TRUE(parameters["weight"].grad().defined());
  EXPECT_FALSE(parameters["light_embedding"].grad().defined());
  EXPECT_FALSE(parameters["light_weight"].grad().defined());
  // The weight is the sigmoid of the score of whatever expert the token has.
  const at::Tensor weight_T = at::sigmoid(x.detach()).gather(1, expert_T.unsqueeze(1)).squeeze(1);
  EXPECT_TRUE(at::allclose(routing.weight_N.detach(), weight_T));

  router->eval();
  EXPECT_TRUE(
      at::equal(router->route(random_input(40, 4, 8), tokens).assignment.expert_N, expert_T));
}

TEST(StableMoeRouter, ChangesStageAfterItsShareOfTheStepsThatItHas) {
  RouterContext late = context_of(4, 4);
  late.first_step = 500;
  auto router = make_router(config_of("stablemoe"), late, options_of("stablemoe"));
  const auto learns = [&](int64_t step) {
    router->on_step(step, 1000);
    return router->route(random_input(8, 4), tokens_of(8)).aux_loss.defined();
  };
  EXPECT_TRUE(learns(500));
  EXPECT_TRUE(learns(549));
  EXPECT_FALSE(learns(550));
  EXPECT_FALSE(learns(999));
}

TEST(StableMoeRouter, LightRouterLearnsTheExpertsOfTokens) {
  // Experts that are a function of the token, so that they can be learned at all.
  auto router = identity_router(config_of("stablemoe"), 4, "distill_loss_coeff = 1.0\n");
  TokenContext tokens = tokens_of(64);
  tokens.id_T = tokens.global_index_T % 16;
  const at::Tensor x = random_input(16, 4).repeat({4, 1});
  auto parameters = router->named_parameters();
  std::vector<at::Tensor> light{parameters["light_embedding"], parameters["light_weight"]};
  for (int64_t step = 0; step < 200; ++step) {
    router->route(x, tokens).aux_loss.backward();
    const at::NoGradGuard no_grad;
    for (at::Tensor& one : light) {
      one.sub_(one.grad() * 20);
      one.mutable_grad().reset();
    }
  }
  const at::Tensor by_scores = router->route(x, tokens).assignment.expert_N;
  router->eval();
  EXPECT_TRUE(at::equal(router->route(x, tokens).assignment.expert_N, by_scores));
}

TEST(StableMoeRouter, NamesWrongSettings) {
  EXPECT_EQ(only_problem(config_of("stablemoe"), 4, "first_stage = 0.0\n"),
            "moe.stablemoe.first_stage = 0: must be above 0 and at most 1");
  EXPECT_EQ(only_problem(config_of("stablemoe"), 4, "distill_loss_coeff = 0.0\n"),
            "moe.stablemoe.distill_loss_coeff = 0: must be above 0, or the light router learns "
            "nothing");
}

}  // namespace
}  // namespace locus::moe
