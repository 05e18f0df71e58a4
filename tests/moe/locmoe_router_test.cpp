#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "locus/base/error.h"
#include "locus/moe/capacity_bound.h"
#include "locus/moe/pooled_gate.h"
#include "locus/moe/router_math.h"
#include "locus/moe/router_stats.h"
#include "tests/moe/router_helpers.h"
#include "tests/support/expect_error.h"

namespace locus::moe {
namespace {

RouterConfig top_1() {
  RouterConfig config = config_of("locmoe");
  config.top_k = 1;
  config.aux_loss_coeff = 0;
  return config;
}

std::shared_ptr<Router> router_of(const RouterConfig& config, const RouterContext& context,
                                  const std::string& toml = "") {
  return make_router(config, context, options_of("locmoe", toml));
}

// Row i of the gate as a dense one would have it: 1 / size, or 1 / sqrt(size), on its channels.
at::Tensor dense_gate(int64_t hidden_size, int64_t num_experts, bool mean) {
  at::Tensor weight_ED = at::zeros({num_experts, hidden_size}, at::kDouble);
  int64_t first = 0;
  for (int64_t i = 0; i < num_experts; ++i) {
    const int64_t size = hidden_size / num_experts + (i < hidden_size % num_experts ? 1 : 0);
    const double scale = static_cast<double>(size);
    weight_ED[i].slice(0, first, first + size).fill_(mean ? 1 / scale : 1 / std::sqrt(scale));
    first += size;
  }
  return weight_ED;
}

TEST(PooledGate, IsTheDenseGateWithItsFixedWeights) {
  for (const bool mean : {true, false}) {
    for (const int64_t hidden_size : {24, 29}) {
      const PooledGate gate(hidden_size, 6, mean ? PoolScale::kMean : PoolScale::kUnitVariance);
      const at::Tensor x = random_input(50, hidden_size);
      const at::Tensor weight_ED = dense_gate(hidden_size, 6, mean);
      EXPECT_TRUE(at::allclose(gate.values(x).to(at::kDouble),
                               at::mm(x.to(at::kDouble), weight_ED.t()), 1e-6, 1e-6));
      // Rows are orthogonal.
      const at::Tensor products = at::mm(weight_ED, weight_ED.t());
      EXPECT_TRUE(at::equal(products, at::diag(products.diagonal())));
    }
  }
}

TEST(PooledGate, ChoosesTheSmallestAngle) {
  const at::Tensor x = random_input(200, 30, 3);
  auto router = router_of(top_1(), context_of(5, 30));
  const at::Tensor weight_ED = dense_gate(30, 5, true);
  const at::Tensor cosine_TE =
      at::mm(x.to(at::kDouble), weight_ED.t()) / weight_ED.norm(2, {1}).unsqueeze(0);
  EXPECT_TRUE(at::equal(router->route(x, tokens_of(200)).assignment.expert_N, cosine_TE.argmax(1)));
}

TEST(LocMoeRouter, HasWeightsThatSumToOneOrTheProbabilities) {
  RouterConfig config = top_1();
  config.top_k = 2;
  const at::Tensor x = random_input(30, 24);
  const Routing one =
      router_of(config, context_of(6, 24), "output_weight = \"one\"\n")->route(x, tokens_of(30));
  EXPECT_TRUE(at::allclose(one.weight_N.view({30, 2}).sum(1), at::ones({30})));
  const Routing p = router_of(config, context_of(6, 24), "output_weight = \"probability\"\n")
                        ->route(x, tokens_of(30));
  EXPECT_TRUE(at::allclose(p.weight_N.view({30, 2}),
                           p.probability_TE.gather(1, p.assignment.requested_TK)));
  const at::Tensor ratio = p.weight_N / one.weight_N;
  EXPECT_TRUE(at::allclose(ratio.view({30, 2}).select(1, 0), ratio.view({30, 2}).select(1, 1)));
}

TEST(LocMoeRouter, IsSharpWithOneExpertAndSoftWithSeveral) {
  const at::Tensor x = random_input(30, 24);
  const at::Tensor value_TE = PooledGate(24, 6, PoolScale::kUnitVariance).values(x);
  const Routing one = router_of(top_1(), context_of(6, 24))->route(x, tokens_of(30));
  EXPECT_TRUE(at::allclose(one.probability_TE, at::softmax(value_TE / 0.3, 1), 1e-5, 1e-7));
  EXPECT_TRUE(at::allclose(one.weight_N, std::get<0>(one.probability_TE.max(1))));
  RouterConfig config = top_1();
  config.top_k = 2;
  const Routing two = router_of(config, context_of(6, 24))->route(x, tokens_of(30));
  EXPECT_TRUE(at::allclose(two.probability_TE, at::softmax(value_TE, 1), 1e-5, 1e-7));
  EXPECT_TRUE(at::allclose(two.weight_N.view({30, 2}).sum(1), at::ones({30})));
}

TEST(LocMoeRouter, LetsTheModelsLossTeachTheGateThroughAWeightOfOne) {
  const auto gradient = [](const char* weight, const at::Tensor& probe_N) {
    const at::Tensor x = random_input(30, 24).requires_grad_();
    const Routing routing =
        router_of(top_1(), context_of(6, 24), format("output_weight = \"{}\"\n", weight))
            ->route(x, tokens_of(30));
    (routing.weight_N * probe_N).sum().backward();
    return std::pair(routing, x.grad());
  };
  const at::Tensor probe_N = at::rand({30}, at::detail::createCPUGenerator(3), at::kFloat);
  const auto [through, of_through] = gradient("straight_through", probe_N);
  EXPECT_TRUE(at::allclose(through.weight_N, at::ones({30})));
  EXPECT_LT(gradient("one", probe_N).second.abs().max().item<double>(), 1e-6);
  // The gradient of p, in shares of p.
  const at::Tensor p_N = through.probability_TE.gather(1, through.assignment.requested_TK).view(-1);
  EXPECT_TRUE(at::allclose(of_through, gradient("probability", probe_N / p_N).second, 1e-4, 1e-6));
  EXPECT_GT(of_through.abs().max().item<double>(), 1e-3);
}

TEST(LocMoeRouter, DropsTheLowestGateValues) {
  RouterConfig config = top_1();
  config.capacity_factor = 1.0;
  const at::Tensor x = at::zeros({4, 4});
  x.select(1, 0).copy_(at::tensor({1.0f, 4.0f, 3.0f, 2.0f}));  // all want expert 0 of 2; 2 places
  const Routing routing = router_of(config, context_of(2, 4))->route(x, tokens_of(4));
  EXPECT_EQ(list_of(routing.assignment.token_N), (std::vector<int64_t>{1, 2}));
}

TEST(LocMoeRouter, MovesTheBiasAgainstTheLoadAndUsesItForTheChoiceAlone) {
  const std::string toml = "output_weight = \"probability\"\n";
  const at::Tensor x = random_input(30, 24);
  auto plain = router_of(top_1(), context_of(6, 24), toml);
  auto router = router_of(top_1(), context_of(6, 24), toml + "bias_update_rate = 100.0\n");
  router->on_step_end(at::tensor({9.0f, 9.0f, 9.0f, 9.0f, 1.0f, 9.0f}));
  const Routing routing = router->route(x, tokens_of(30));
  EXPECT_EQ(list_of(routing.assignment.expert_N), std::vector<int64_t>(30, 4));
  const at::Tensor probability_TE = plain->route(x, tokens_of(30)).probability_TE;
  EXPECT_TRUE(at::equal(routing.probability_TE, probability_TE));
  EXPECT_TRUE(at::equal(routing.weight_N, probability_TE.select(1, 4)));
}

// Two domains of unequal size: the experts of the larger one all have more than the mean of all.
TEST(LocMoeRouter, MovesTheBiasAgainstTheLoadOfTheDomainsOwnExperts) {
  RouterContext context = context_of(6, 24);
  context.allowed_GE = at::tensor({1, 1, 1, 0, 0, 0, 0, 0, 0, 1, 1, 0}).to(at::kBool).view({2, 6});
  auto router = router_of(top_1(), context, "bias_update_rate = 0.5\n");
  router->on_step_end(at::tensor({60.0f, 40.0f, 50.0f, 3.0f, 1.0f, 9.0f}));
  EXPECT_EQ(numbers_of(router->named_buffers()["expert_bias"]),
            (std::vector<double>{-0.5, 0.5, 0, -0.5, 0.5, 0}));
}

TEST(LocMoeRouter, DrawsItsNoiseForATokenWhereverItIsAndInTrainingAlone) {
  const at::Tensor x = at::zeros({4000, 24});
  auto router = router_of(top_1(), context_of(6, 24), "noise_std = 0.5\ntemperature = 1.0\n");
  const TokenContext tokens = tokens_of(4000);
  const at::Tensor all_TE = router->route(x, tokens).probability_TE;
  TokenContext last = tokens_of(1000);
  last.global_index_T = tokens.global_index_T.slice(0, 3000);
  EXPECT_TRUE(
      at::equal(router->route(x.slice(0, 3000), last).probability_TE, all_TE.slice(0, 3000)));
  const at::Tensor value_TE = all_TE.log() - all_TE.log().mean(1, true);
  EXPECT_NEAR(value_TE.std().item<double>(), 0.5 * std::sqrt(5.0 / 6.0), 0.01);
  router->eval();
  EXPECT_TRUE(at::allclose(router->route(x, tokens).probability_TE, at::full({4000, 6}, 1.0f / 6)));
}

// Experts 0-2 live on node 0, 3-5 on node 1.
RouterContext two_nodes(int64_t node) {
  RouterContext context = context_of(6, 24);
  context.node_of_expert = {0, 0, 0, 1, 1, 1};
  context.node = node;
  return context;
}

TEST(LocMoeRouter, BreaksTiesOfReluForTheNearerExpert) {
  const at::Tensor x = at::full({3, 24}, -1.0f);  // all values are 0 after ReLU
  for (const int64_t node : {0, 1}) {
    const Routing routing =
        router_of(top_1(), two_nodes(node), "relu = true\n")->route(x, tokens_of(3));
    EXPECT_EQ(list_of(routing.assignment.expert_N), std::vector<int64_t>(3, node * 3));
  }
}

TEST(LocalityLoss, IsNothingWhereTheDistributionIsTheLocalOne) {
  const at::Tensor is_local_E = at::tensor({1, 1, 0, 0}).to(at::kBool);
  const double eps = 0.1;
  const at::Tensor local = at::tensor({.45, .45, .05, .05}, at::kDouble).repeat({8, 1});
  EXPECT_NEAR(locality_loss(local, is_local_E, eps).item<double>(), 0, 1e-12);
  // Worked: all on one remote expert, log(1 / 0.05).
  const at::Tensor remote = at::tensor({0., 0., 1., 0.}, at::kDouble).repeat({8, 1});
  EXPECT_NEAR(locality_loss(remote, is_local_E, eps).item<double>(), std::log(20.0), 1e-12);
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const at::Tensor p = at::softmax(random_input(8, 4, seed).to(at::kDouble), 1);
    EXPECT_GT(locality_loss(p, is_local_E, eps).item<double>(), 0);
  }
}

TEST(LocalityLoss, HasAFiniteGradientWhereAnExpertHasNoShareAtAll) {
  at::Tensor p = at::tensor({.5, .5, 0., 0.}, at::kDouble).repeat({3, 1}).requires_grad_();
  const at::Tensor is_local_E = at::tensor({1, 0, 1, 0}).to(at::kBool);
  const at::Tensor loss = locality_loss(p, is_local_E, 0.01);
  EXPECT_TRUE(torch::autograd::grad({loss}, {p})[0].isfinite().all().item<bool>());
}

TEST(LocalityLoss, PullsTokensToTheirNode) {
  at::Tensor logits = random_input(16, 6).to(at::kDouble).requires_grad_();
  const at::Tensor is_local_E = local_experts(two_nodes(1).node_of_expert, 1);
  const at::Tensor p = at::softmax(logits, 1);
  const at::Tensor loss = locality_loss(p, is_local_E, 0.01);
  const at::Tensor step = torch::autograd::grad({loss}, {logits})[0];
  const at::Tensor moved = at::softmax(logits - 0.1 * step, 1);
  const auto local_share = [&](const at::Tensor& q) {
    return q.detach().mean(0).masked_select(is_local_E).sum().item<double>();
  };
  EXPECT_GT(local_share(moved), local_share(p));
}

TEST(LocMoeRouter, AddsTheLocalityLossInTrainingAndOnlyWhereItHasAnEffect) {
  const std::string toml = "locality_loss_coeff = 0.5\n";
  const at::Tensor x = random_input(40, 24);
  auto router = router_of(top_1(), two_nodes(0), toml);
  const Routing routing = router->route(x, tokens_of(40));
  ASSERT_TRUE(routing.locality_loss.defined());
  const double want = 0.5 * locality_loss(routing.probability_TE,
                                          local_experts(two_nodes(0).node_of_expert, 0), 0.01)
                                .item<double>();
  EXPECT_NEAR(routing.aux_loss.item<double>(), want, 1e-6);
  router->eval();
  EXPECT_FALSE(router->route(x, tokens_of(40)).locality_loss.defined());
  EXPECT_FALSE(
      router_of(top_1(), context_of(6, 24), toml)->route(x, tokens_of(40)).aux_loss.defined());
}

TEST(LocMoeRouter, NamesWrongSettings) {
  const auto problem = [](const std::string& toml) { return only_problem(top_1(), 6, toml); };
  EXPECT_EQ(problem("temperature = -0.1\n"), "moe.locmoe.temperature = -0.1: must be 0 or more");
  EXPECT_EQ(problem("noise_std = -1.0\n"), "moe.locmoe.noise_std = -1: must be 0 or more");
  EXPECT_EQ(problem("bias_update_rate = nan\n"),
            "moe.locmoe.bias_update_rate = nan: must be 0 or more");
  EXPECT_EQ(problem("locality_eps = 1.0\n"),
            "moe.locmoe.locality_eps = 1: must be above 0 and below 1");
  RouterConfig limited = top_1();
  limited.capacity_factor = 1.5;
  EXPECT_EQ(only_problem(limited, 6, "capacity_policy = \"target_drop\"\n"),
            "moe.router.capacity_factor = 1.5 has no part in moe.locmoe.capacity_policy = "
            "\"target_drop\": set it to 0");
  EXPECT_EQ(problem("gate_scale = \"max\"\n"),
            "moe.locmoe.gate_scale = \"max\" is not known; known: unit_variance, mean");
  const std::string error =
      test::error_of<ConfigError>([] { router_of(top_1(), context_of(6, 5)); });
  EXPECT_NE(error.find("a pooled gate has a group of channels for each expert"), std::string::npos)
      << error;
}

TEST(PooledGate, TellsCosinesWhateverItsScale) {
  for (const PoolScale scale : {PoolScale::kMean, PoolScale::kUnitVariance}) {
    const PooledGate gate(29, 6, scale);
    at::Tensor x = random_input(20, 29);
    x[3].zero_();
    const at::Tensor weight_ED = dense_gate(29, 6, true);
    const at::Tensor expected =
        at::mm(x.to(at::kDouble), weight_ED.t()) /
        (x.to(at::kDouble).norm(2, 1, true).clamp_min(1e-30) * weight_ED.norm(2, 1).unsqueeze(0));
    EXPECT_TRUE(
        at::allclose(gate.cosines(gate.values(x), x).to(at::kDouble), expected, 1e-5, 1e-6));
  }
}

double mean_cosine(const at::Tensor& x) {
  const PooledGate gate(30, 5, PoolScale::kUnitVariance);
  return gate.affinities(x).amax(1).mean().item<double>();
}

TEST(LocMoeRouter, MeasuresTheAnglesOfFirstChoices) {
  const at::Tensor x = random_input(200, 30, 3);
  for (const char* toml : {"", "gate_scale = \"mean\""}) {
    auto router = router_of(top_1(), context_of(5, 30), toml);
    EXPECT_FALSE(router->route(x, tokens_of(200)).cosine_sum_E.defined()) << "nobody looks";
    router->is_observed = true;
    const Routing routing = router->route(x, tokens_of(200));
    RouterStats stats;
    add_routing(stats, routing, tokens_of(200), 5, 200, 0);
    EXPECT_NEAR(stats.cosine(), mean_cosine(x), 1e-5) << toml;
    EXPECT_EQ(stats.cosines().size(), 5U);
  }
}

TEST(LocMoeRouter, DropsNoMoreThanItsTarget) {
  for (const double share : {0.0, 0.02, 0.1, 0.5}) {
    auto router =
        router_of(top_1(), context_of(5, 30),
                  format("capacity_policy = \"target_drop\"\ntarget_drop_share = {}", share));
    const Routing routing = router->route(random_input(500, 30, 9), tokens_of(500));
    const int64_t dropped = 500 - routing.assignment.token_N.numel();
    EXPECT_LE(static_cast<double>(dropped), share * 500);
    // One less would drop more than that.
    const at::Tensor requested_E = count_experts(routing.assignment.requested_TK, 5);
    const double at_one_less =
        (requested_E - static_cast<double>(routing.capacity - 1)).clamp_min(0).sum().item<double>();
    EXPECT_GT(at_one_less, share * 500) << routing.capacity;
    EXPECT_FALSE(router->is_causal_in_training());
  }
}

TEST(LocMoeRouter, TakesTheBoundOfTheAnglesThatItHasSeen) {
  auto router = router_of(top_1(), context_of(5, 30), "capacity_policy = \"bound\"");
  const at::Tensor x = random_input(300, 30, 9);
  const at::Tensor near = x.abs();  // other angles
  const auto bound = [](double cosine) {
    return static_cast<int64_t>(std::ceil(capacity_bound(cosine, 30, 5)));
  };
  router->on_step(0, 10);
  EXPECT_EQ(router->route(x, tokens_of(300)).capacity, 0) << "nothing is known in the first step";
  router->on_step_end({});
  router->on_step(1, 10);
  const Routing routing = router->route(x, tokens_of(300));
  EXPECT_EQ(routing.capacity, bound(mean_cosine(x)));
  EXPECT_LE(count_experts(routing.assignment.expert_N, 5).max().item<double>(),
            static_cast<double>(routing.capacity));
  // A skipped step leaves no trace; a taken one counts for a half, as the second of two.
  router->on_step(2, 10);
  router->route(near, tokens_of(300));
  router->on_step(3, 10);
  EXPECT_EQ(router->route(near, tokens_of(300)).capacity, bound(mean_cosine(x)));
  router->on_step_end({});
  EXPECT_NEAR(router->named_buffers()["cosine"].item<double>(),
              (mean_cosine(x) + mean_cosine(near)) / 2, 1e-5);
}

}  // namespace
}  // namespace locus::moe
