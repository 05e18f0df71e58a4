#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>
#include <set>

#include "locus/base/format.h"
#include "locus/comm/thread_ranks.h"
#include "locus/moe/pooled_gate.h"
#include "locus/moe/router_math.h"
#include "tests/moe/router_helpers.h"

namespace locus::moe {
namespace {

constexpr int64_t kExperts = 6, kHidden = 24;

RouterConfig config_with(int64_t top_k, double capacity_factor) {
  RouterConfig config = config_of("locmoe_plus");
  config.top_k = top_k;
  config.capacity_factor = capacity_factor;
  config.aux_loss_coeff = 0;
  return config;
}

std::shared_ptr<Router> router_of(const RouterConfig& config, const std::string& toml = "",
                                  TokenPool pool = {}) {
  RouterContext context = context_of(kExperts, kHidden);
  context.pool = std::move(pool);
  return make_router(config, context, options_of("locmoe_plus", toml));
}

at::Tensor affinities_of(const at::Tensor& x) {
  return PooledGate(kHidden, kExperts, PoolScale::kUnitVariance).affinities(x);
}

using Pairs = std::set<std::pair<int64_t, int64_t>>;  // (token, expert)

Pairs pairs_of(const Routing& routing, int64_t first_token = 0) {
  const std::vector<int64_t> tokens = list_of(routing.assignment.token_N);
  const std::vector<int64_t> experts = list_of(routing.assignment.expert_N);
  Pairs pairs;
  for (size_t n = 0; n < tokens.size(); ++n) pairs.emplace(tokens[n] + first_token, experts[n]);
  return pairs;
}

// After some steps experts can tell their tokens, and the shift to expert choice is over.
void train(Router& router) {
  for (int64_t step = 0; step < 3; ++step) {
    router.on_step(step, 100);
    router.route(random_input(64, kHidden, static_cast<uint64_t>(100 + step)), tokens_of(64));
    router.on_step_end({});
  }
  router.on_step(100, 100);
}

// So many steps at the end of the shift that the running means have settled.
void learn_thresholds(Router& router) {
  for (int64_t step = 0; step < 40; ++step) {
    router.on_step(100, 100);
    router.route(random_input(256, kHidden, static_cast<uint64_t>(step)), tokens_of(256));
    router.on_step_end({});
  }
}

TEST(Affinity, IsTheCosineToTheRowOfThePooledGate) {
  const int64_t hidden = 29;
  const at::Tensor x = random_input(40, hidden);
  at::Tensor row_ED = at::zeros({kExperts, hidden}, at::kDouble);
  int64_t first = 0;
  for (int64_t i = 0; i < kExperts; ++i) {
    const int64_t size = hidden / kExperts + (i < hidden % kExperts ? 1 : 0);
    row_ED[i].slice(0, first, first + size).fill_(1.0 / static_cast<double>(size));
    first += size;
  }
  const at::Tensor x64 = x.to(at::kDouble);
  const at::Tensor cosine_TE =
      at::mm(x64, row_ED.t()) / x64.norm(2, {1}, true) / row_ED.norm(2, {1});
  const at::Tensor got = PooledGate(hidden, kExperts, PoolScale::kUnitVariance).affinities(x);
  EXPECT_TRUE(at::allclose(got.to(at::kDouble), cosine_TE, 0, 1e-6));
}

TEST(Affinity, OfATokenOfZerosIsZeroWithAFiniteGradient) {
  const at::Tensor x = at::zeros({2, kHidden}).requires_grad_();
  const at::Tensor affinity = affinities_of(x);
  EXPECT_TRUE(at::equal(affinity, at::zeros({2, kExperts})));
  affinity.sum().backward();
  EXPECT_TRUE(x.grad().isfinite().all().item<bool>());
}

TEST(LocMoePlusRouter, IsTopOneTokenChoiceWithoutThresholdAndCeiling) {
  const at::Tensor x = random_input(80, kHidden);
  // By default, p of a sharp softmax with one expert, and weights that sum to 1 with several.
  const auto weights_of = [&](int64_t top_k, const std::string& toml) {
    auto router = router_of(config_with(top_k, 0), toml);
    train(*router);
    return router->route(x, tokens_of(80)).weight_N;
  };
  EXPECT_TRUE(at::equal(weights_of(1, ""), weights_of(1,
                                                      "temperature = 0.3\n"
                                                      "output_weight = \"probability\"\n")));
  EXPECT_TRUE(at::equal(weights_of(3, ""),
                        weights_of(3, "temperature = 1.0\noutput_weight = \"chosen\"\n")));
  EXPECT_FALSE(at::equal(weights_of(3, ""), weights_of(3, "temperature = 0.3\n")));
  for (const bool is_chosen : {false, true}) {
    auto router =
        router_of(config_with(3, 0), format("theta = 0.0\nrho_end = 1.0\noutput_weight = \"{}\"\n",
                                            is_chosen ? "chosen" : "probability"));
    train(*router);
    const Routing routing = router->route(x, tokens_of(80));
    EXPECT_TRUE(at::equal(routing.assignment.expert_N, affinities_of(x).argmax(1)));
    EXPECT_EQ(routing.assignment.token_N.numel(), 80);
    const at::Tensor best_T = std::get<0>(routing.probability_TE.max(1));
    EXPECT_TRUE(at::allclose(routing.weight_N, is_chosen ? at::ones({80}) : best_T));
  }
}

TEST(LocMoePlusRouter, IsExpertChoiceWhereTokensNameAllExperts) {
  const at::Tensor x = random_input(60, kHidden);
  auto router = router_of(config_with(kExperts, 1.0), "min_capacity_factor = 1.0\n");
  train(*router);
  Pairs want;
  const at::Tensor best_EC = top_k(affinities_of(x).t().contiguous(), 10);
  for (int64_t e = 0; e < kExperts; ++e) {
    for (const int64_t token : list_of(best_EC[e])) want.emplace(token, e);
  }
  EXPECT_EQ(pairs_of(router->route(x, tokens_of(60))), want);
}

TEST(LocMoePlusRouter, NamesTheFewestExpertsThatReachTheta) {
  const at::Tensor x = random_input(50, kHidden);
  auto router = router_of(config_with(4, 0), "theta = 0.6\nrho_end = 1.0\n");
  const Routing routing = router->route(x, tokens_of(50));
  const std::vector<int64_t> tokens = list_of(routing.assignment.token_N);
  for (int64_t t = 0; t < 50; ++t) {
    std::vector<double> p = numbers_of(routing.probability_TE[t]);
    std::sort(p.rbegin(), p.rend());
    size_t named = 0;
    for (double sum = 0; sum < 0.6 && named < 4; ++named) sum += p[named];
    EXPECT_EQ(std::count(tokens.begin(), tokens.end(), t), static_cast<int64_t>(named)) << t;
  }
}

// What the experts take of the tokens that have named them, by plain loops.
Pairs chosen_by_loop(const at::Tensor& affinity_TE, const at::Tensor& probability_TE, int64_t named,
                     double rho, size_t floor, size_t ceiling) {
  const at::Tensor best_TL = top_k(affinity_TE, named);
  std::map<int64_t, std::vector<std::pair<double, int64_t>>> candidates;  // (-affinity, token)
  for (int64_t t = 0; t < affinity_TE.size(0); ++t) {
    for (const int64_t e : list_of(best_TL[t])) {
      candidates[e].emplace_back(-affinity_TE[t][e].item<double>(), t);
    }
  }
  Pairs chosen;
  for (auto& [expert, tokens] : candidates) {
    std::sort(tokens.begin(), tokens.end());
    const auto p = [&, e = expert](int64_t t) { return probability_TE[t][e].item<double>(); };
    double total = 0, before = 0;
    for (const auto& [affinity, token] : tokens) total += p(token);
    for (size_t place = 0; place < tokens.size(); ++place) {
      const int64_t token = tokens[place].second;
      if (place < ceiling && (rho >= 1 || before < rho * total || place < floor)) {
        chosen.emplace(token, expert);
      }
      before += p(token);
    }
  }
  return chosen;
}

double rho_of(Router& router, double rho_end) {
  const double confusion = router.named_buffers()["confusion"].mean().item<double>();
  return 1 - (1 - rho_end) * (1 - 2 * std::min(0.5, confusion));
}

TEST(LocMoePlusRouter, TakesTheFewestOfHighestAffinityBetweenFloorAndCeiling) {
  const at::Tensor x = random_input(120, kHidden, 4);
  for (const double rho_end : {0.2, 0.5, 0.9}) {
    auto router = router_of(config_with(2, 1.1),
                            format("rho_end = {}\nmin_capacity_factor = 0.3\n", rho_end));
    train(*router);
    const Routing routing = router->route(x, tokens_of(120));
    const double rho = rho_of(*router, rho_end);
    EXPECT_LT(rho, 1);
    const Pairs want = chosen_by_loop(affinities_of(x), routing.probability_TE, 2, rho, 6, 22);
    EXPECT_EQ(pairs_of(routing), want);
    EXPECT_EQ(routing.num_requested, 240);
  }
}

TEST(LocMoePlusRouter, NeverAddsATokenWhenRhoFalls) {
  const at::Tensor x = random_input(200, kHidden, 5);
  Pairs before;
  for (const double rho_end : {1.0, 0.8, 0.6, 0.4, 0.2}) {
    auto router = router_of(config_with(2, 0), format("rho_end = {}\n", rho_end));
    train(*router);
    const Pairs now = pairs_of(router->route(x, tokens_of(200)));
    if (!before.empty()) {
      EXPECT_TRUE(std::includes(before.begin(), before.end(), now.begin(), now.end()));
      EXPECT_LT(now.size(), before.size());
    }
    before = now;
  }
}

TEST(LocMoePlusRouter, ShiftsFromTokenChoiceToExpertChoice) {
  const at::Tensor x = random_input(200, kHidden, 5);
  auto router =
      router_of(config_with(1, 0), "rho_end = 0.3\nshift_begin = 0.25\nshift_end = 0.75\n");
  train(*router);
  std::vector<int64_t> kept;
  for (const int64_t step : {0, 25, 50, 75, 100}) {
    router->on_step(step, 100);
    kept.push_back(router->route(x, tokens_of(200)).assignment.token_N.numel());
  }
  EXPECT_EQ(kept[0], 200);
  EXPECT_EQ(kept[1], 200);
  EXPECT_LT(kept[2], kept[1]);
  EXPECT_LT(kept[3], kept[2]);
  EXPECT_EQ(kept[4], kept[3]);
}

TEST(LocMoePlusRouter, KeepsItsTokensWhileExpertsCannotTellThem) {
  // Tokens of zeros are alike to all experts: q stays 1/2, and nothing is taken away.
  auto router = router_of(config_with(2, 0), "rho_end = 0.1\n");
  router->on_step(100, 100);
  router->route(at::zeros({32, kHidden}), tokens_of(32));
  router->on_step_end({});
  router->on_step(100, 100);
  EXPECT_EQ(router->route(random_input(50, kHidden), tokens_of(50)).assignment.token_N.numel(),
            100);
}

TEST(LocMoePlusRouter, MeasuresConfusionAsTheShareOfPairsInTheWrongOrder) {
  const at::Tensor x = random_input(300, kHidden, 8);
  auto router = router_of(config_with(1, 0));
  router->on_step(0, 100);
  router->route(x, tokens_of(300));
  router->on_step_end({});
  const at::Tensor affinity = affinities_of(x);
  const at::Tensor first = affinity.argmax(1);
  const std::vector<double> confusion = numbers_of(router->named_buffers()["confusion"]);
  for (int64_t e = 0; e < kExperts; ++e) {
    const at::Tensor column = affinity.select(1, e);
    const at::Tensor mine = column.masked_select(first.eq(e));
    const at::Tensor others = column.masked_select(first.ne(e));
    const double want =
        others.unsqueeze(1).gt(mine.unsqueeze(0)).to(at::kDouble).mean().item<double>();
    EXPECT_NEAR(confusion[static_cast<size_t>(e)], want, 0.01);
  }
}

TEST(LocMoePlusRouter, ChoosesTheSameOnAnyNumberOfRanks) {
  // Many equal tokens: ties everywhere.
  const at::Tensor x = random_input(8, kHidden, 6).repeat({10, 1});
  const std::string toml = "rho_end = 0.4\n";
  auto alone = router_of(config_with(2, 1.0), toml);
  train(*alone);
  const Pairs want = pairs_of(alone->route(x, tokens_of(80)));
  for (const int64_t num_ranks : {2, 4}) {
    std::mutex mutex;
    Pairs got;
    comm::run_thread_ranks(num_ranks, {}, [&](const comm::ParallelContext& parallel) {
      auto router = router_of(config_with(2, 1.0), toml, TokenPool(parallel.world));
      const at::NoGradGuard no_grad;
      for (auto& buffer : router->named_buffers()) {
        buffer.value().copy_(alone->named_buffers()[buffer.key()]);
      }
      router->on_step(100, 100);
      const int64_t share = 80 / num_ranks, begin = parallel.rank * share;
      const Routing routing =
          router->route(x.slice(0, begin, begin + share), tokens_of(share, begin));
      const std::lock_guard lock(mutex);
      got.merge(pairs_of(routing, begin));
    });
    EXPECT_EQ(got, want) << num_ranks << " ranks";
  }
}

TEST(LocMoePlusRouter, AdmitsAboutAsManyTokensByItsCausalRuleAsInTraining) {
  auto router = router_of(config_with(2, 1.1), "rho_end = 0.4\n");
  learn_thresholds(*router);
  const at::Tensor x = random_input(2000, kHidden, 77);
  const int64_t training = router->route(x, tokens_of(2000)).assignment.token_N.numel();
  router->eval();
  const int64_t causal = router->route(x, tokens_of(2000)).assignment.token_N.numel();
  EXPECT_NEAR(static_cast<double>(causal) / static_cast<double>(training), 1.0, 0.15);
}

TEST(LocMoePlusRouter, LooksAtATokenAloneOnceItsThresholdsAreLearned) {
  auto router = router_of(config_with(2, 1.1), "rho_end = 0.3\n");
  learn_thresholds(*router);
  router->eval();
  const at::Tensor x = random_input(40, kHidden, 9);
  const Pairs all = pairs_of(router->route(x, tokens_of(40)));
  EXPECT_LT(all.size(), 60u) << "the thresholds have to refuse some of the 80";
  EXPECT_GT(all.size(), 5u);
  Pairs alone;
  for (int64_t t = 0; t < 40; ++t) {
    const Pairs one = pairs_of(router->route(x.narrow(0, t, 1), tokens_of(1, t)), t);
    alone.insert(one.begin(), one.end());
  }
  EXPECT_EQ(alone, all);
}

// Experts that come in the middle of a training keep all their tokens at first, as others did.
TEST(LocMoePlusRouter, CountsItsScheduleFromTheStepOfItsExperts) {
  const auto kept_at = [](int64_t first_step, int64_t step) {
    RouterContext context = context_of(kExperts, kHidden);
    context.first_step = first_step;
    auto router = make_router(config_with(1, 0), context,
                              options_of("locmoe_plus", "rho_end = 0.2\nshift_begin = 0.5\n"));
    router->on_step(step, 100);
    router->route(random_input(200, kHidden, 3), tokens_of(200));
    router->on_step_end({});  // knows now how well experts tell tokens apart
    return router->route(random_input(200, kHidden, 4), tokens_of(200)).assignment.token_N.numel();
  };
  EXPECT_EQ(kept_at(50, 60), 200);
  EXPECT_LT(kept_at(0, 70), 200);
  EXPECT_EQ(kept_at(0, 99), kept_at(50, 99));
}

TEST(LocMoePlusRouter, AdmitsAllByItsCausalRuleWhereItRefusesNobodyInTraining) {
  auto router = router_of(config_with(1, 0));
  train(*router);
  router->on_step(0, 100);  // token choice
  router->eval();
  EXPECT_EQ(router->route(random_input(500, kHidden, 3), tokens_of(500)).assignment.token_N.numel(),
            500);
}

TEST(LocMoePlusRouter, ChoosesByTheTrainingRuleOfItsSavedState) {
  const std::string toml = "rho_end = 0.4\n";
  auto trained = router_of(config_with(2, 1.1), toml);
  train(*trained);
  auto loaded = router_of(config_with(2, 1.1), toml);
  const at::NoGradGuard no_grad;
  for (auto& buffer : loaded->named_buffers()) {
    buffer.value().copy_(trained->named_buffers()[buffer.key()]);
  }
  const at::Tensor x = random_input(90, kHidden);
  loaded->eval();
  loaded->set_evaluate_with_training_rule(true);
  EXPECT_EQ(pairs_of(loaded->route(x, tokens_of(90))), pairs_of(trained->route(x, tokens_of(90))));
}

TEST(LocMoePlusRouter, BalancesTheFirstChoicesOfTheStepSoFar) {
  RouterConfig config = config_with(kExperts, 0);  // tokens name all experts
  config.aux_loss_coeff = 1;
  config.aux_loss_scope = "global_batch";
  auto router = router_of(config);
  router->on_step(0, 100);
  const at::Tensor a = random_input(20, kHidden, 1), b = random_input(20, kHidden, 2);
  router->route(a, tokens_of(20));
  const Routing routing = router->route(b, tokens_of(20, 20));
  const at::Tensor first = affinities_of(at::cat({a, b})).argmax(1);
  const at::Tensor share_E = at::bincount(first, {}, kExperts).to(at::kFloat) / 40;
  const double want = (share_E * routing.probability_TE.mean(0)).sum().item<double>() * kExperts;
  EXPECT_NEAR(routing.balance_loss.item<double>(), want, 1e-5);
}

TEST(LocMoePlusRouter, NamesWrongSettings) {
  const auto problem = [](const std::string& toml) {
    return only_problem(config_with(2, 1.0), kExperts, toml);
  };
  EXPECT_EQ(problem("temperature = -0.1\n"),
            "moe.locmoe_plus.temperature = -0.1: must be 0 or more");
  EXPECT_EQ(problem("theta = 1.5\n"), "moe.locmoe_plus.theta = 1.5: must be 0 to 1");
  EXPECT_EQ(problem("rho_end = 0.0\n"),
            "moe.locmoe_plus.rho_end = 0: must be above 0 and at most 1");
  EXPECT_EQ(problem("shift_end = 0.2\n"),
            "moe.locmoe_plus.shift_end = 0.2: must be moe.locmoe_plus.shift_begin = 0.3 to 1");
  EXPECT_EQ(problem("min_capacity_factor = 2.0\n"),
            "moe.locmoe_plus.min_capacity_factor = 2 is above moe.router.capacity_factor = 1: an "
            "expert would have to take more than it may");
}

}  // namespace
}  // namespace locus::moe
