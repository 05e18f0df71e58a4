// What every router must do; runs over the table.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <filesystem>
#include <limits>
#include <map>
#include <set>

#include "locus/base/error.h"
#include "locus/moe/router.h"
#include "tests/moe/router_helpers.h"

namespace locus::moe {
namespace {

constexpr int64_t kExperts = 6;
constexpr int64_t kHidden = 10;

class RouterConformance : public testing::TestWithParam<std::string> {
 protected:
  RouterConfig config() const {
    RouterConfig config = config_of(GetParam());
    config.z_loss_coeff = GetParam() == "hash" ? 0.0 : 0.001;
    return config;
  }

  std::shared_ptr<Router> make(const RouterConfig& config, int64_t num_experts = kExperts) const {
    return make_router(config, context_of(num_experts, kHidden), options_of(config.type));
  }

  // Choices per token that the capacity limit counts with.
  int64_t num_choices() const {
    const std::map<std::string, int64_t> fixed{
        {"switch", 1},     {"gshard", 2},    {"expert_choice", 1},          {"locmoe_plus", 1},
        {"base_layer", 1}, {"stablemoe", 1}, {"dense_to_sparse", kExperts}, {"soft", kExperts}};
    const auto found = fixed.find(GetParam());
    return found == fixed.end() ? config().top_k : found->second;
  }
};

void expect_valid(const Routing& routing, int64_t num_tokens, int64_t num_experts) {
  const Assignment& a = routing.assignment;
  ASSERT_EQ(a.token_N.scalar_type(), at::kLong);
  ASSERT_EQ(a.expert_N.scalar_type(), at::kLong);
  ASSERT_EQ(a.token_N.dim(), 1);
  ASSERT_EQ(a.expert_N.sizes(), a.token_N.sizes());
  ASSERT_EQ(routing.weight_N.sizes(), a.token_N.sizes());
  EXPECT_GE(routing.num_requested, a.token_N.numel());
  const std::vector<int64_t> tokens = list_of(a.token_N), experts = list_of(a.expert_N);
  std::set<std::pair<int64_t, int64_t>> pairs;
  for (size_t i = 0; i < tokens.size(); ++i) {
    EXPECT_TRUE(tokens[i] >= 0 && tokens[i] < num_tokens) << tokens[i];
    EXPECT_TRUE(experts[i] >= 0 && experts[i] < num_experts) << experts[i];
    EXPECT_TRUE(pairs.emplace(tokens[i], experts[i]).second) << tokens[i] << " " << experts[i];
  }
}

void expect_finite_weights(const Routing& routing) {
  for (const double weight : numbers_of(routing.weight_N)) {
    EXPECT_TRUE(std::isfinite(weight) && weight >= 0) << weight;
  }
}

void expect_equal(const Routing& a, const Routing& b) {
  EXPECT_TRUE(at::equal(a.assignment.token_N, b.assignment.token_N));
  EXPECT_TRUE(at::equal(a.assignment.expert_N, b.assignment.expert_N));
  EXPECT_TRUE(at::equal(a.weight_N, b.weight_N));
  ASSERT_EQ(a.aux_loss.defined(), b.aux_loss.defined());
  if (a.aux_loss.defined()) {
    EXPECT_TRUE(at::equal(a.aux_loss, b.aux_loss));
  }
}

std::map<std::string, at::Tensor> state_of(Router& router) {
  std::map<std::string, at::Tensor> state;
  for (const auto& entry : router.named_parameters()) state[entry.key()] = entry.value().detach();
  for (const auto& entry : router.named_buffers()) state[entry.key()] = entry.value().detach();
  return state;
}

std::map<std::string, at::Tensor> copy_of(const std::map<std::string, at::Tensor>& state) {
  std::map<std::string, at::Tensor> copy;
  for (const auto& [name, value] : state) copy[name] = value.clone();
  return copy;
}

TEST_P(RouterConformance, RoutesEveryShapeAndTypeToValidPairs) {
  for (const bool training : {true, false}) {
    for (const int64_t num_tokens : {1, 2, 7, 64}) {
      for (const auto type : {at::kFloat, at::kDouble, at::kBFloat16}) {
        auto router = make(config());
        router->train(training);
        const at::Tensor x = random_input(num_tokens, kHidden).to(type);
        const Routing routing = router->route(x, tokens_of(num_tokens));
        expect_valid(routing, num_tokens, kExperts);
        expect_finite_weights(routing);
        const auto wanted = type == at::kDouble ? at::kDouble : at::kFloat;
        EXPECT_EQ(routing.weight_N.scalar_type(), wanted);
        if (routing.aux_loss.defined()) {
          EXPECT_EQ(routing.aux_loss.scalar_type(), wanted);
          EXPECT_EQ(routing.aux_loss.dim(), 0);
          EXPECT_TRUE(std::isfinite(routing.aux_loss.item<double>()));
        }
        if (routing.probability_TE.defined()) {
          EXPECT_EQ(routing.probability_TE.scalar_type(), at::kFloat);
          EXPECT_FALSE(routing.probability_TE.requires_grad());
          EXPECT_TRUE(at::allclose(routing.probability_TE.sum(1), at::ones({num_tokens})));
        }
      }
    }
  }
}

TEST_P(RouterConformance, HasLossesInTrainingOnly) {
  auto router = make(config());
  router->eval();
  const Routing routing = router->route(random_input(8, kHidden), tokens_of(8));
  EXPECT_FALSE(routing.aux_loss.defined());
  EXPECT_FALSE(router->requested_E.defined());
}

TEST_P(RouterConformance, RoutesZeroTokens) {
  for (const bool training : {true, false}) {
    for (const double factor : {0.0, 1.0}) {
      for (const char* scope : {"micro_batch", "sequence", "global_batch"}) {
        RouterConfig with_limit = config();
        with_limit.capacity_factor = factor;
        with_limit.aux_loss_scope = scope;
        auto router = make(with_limit);
        router->train(training);
        const at::Tensor x = at::empty({0, kHidden}).requires_grad_();
        const Routing routing = router->route(x, tokens_of(0));
        EXPECT_EQ(routing.assignment.token_N.numel(), 0);
        EXPECT_EQ(routing.weight_N.numel(), 0);
        at::Tensor total = routing.weight_N.sum();
        if (routing.aux_loss.defined()) total = total + routing.aux_loss;
        EXPECT_EQ(total.item<double>(), 0.0);
        if (total.requires_grad()) total.backward();
        expect_equal(router->route(x, tokens_of(0), &routing.assignment), routing);
      }
    }
  }
}

TEST_P(RouterConformance, RoutesToOneExpert) {
  for (const bool training : {true, false}) {
    RouterConfig one = config();
    one.top_k = 1;
    auto router = make(one, 1);
    router->train(training);
    const Routing routing = router->route(random_input(5, kHidden), tokens_of(5));
    expect_valid(routing, 5, 1);
    EXPECT_EQ(routing.assignment.token_N.numel(), 5);
    if (GetParam() == "base_layer" || GetParam() == "stablemoe") {  // a sigmoid of the score
      expect_finite_weights(routing);
    } else {
      expect_near(numbers_of(routing.weight_N), {1, 1, 1, 1, 1}, 1e-6);
    }
  }
}

TEST_P(RouterConformance, RoutesToAllExperts) {
  RouterConfig all = config();
  all.top_k = kExperts;
  auto router = make(all);
  const Routing routing = router->route(random_input(5, kHidden), tokens_of(5));
  expect_valid(routing, 5, kExperts);
  if (num_choices() == config().top_k && GetParam() != "gshard") {
    EXPECT_EQ(routing.assignment.token_N.numel(), 5 * kExperts);
  }
}

TEST_P(RouterConformance, RespectsCapacity) {
  for (const char* policy : {"probs", "position", "random"}) {
    for (const double factor : {0.3, 1.0, 1.25}) {
      RouterConfig limited = config();
      limited.capacity_factor = factor;
      limited.drop_policy = policy;
      // Some choose by score alone.
      if (!find_router(GetParam()).validate(limited, kExperts, options_of(GetParam())).empty()) {
        EXPECT_STREQ(policy, "random");
        continue;
      }
      auto router = make(limited);
      const Routing routing = router->route(random_input(40, kHidden), tokens_of(40));
      expect_valid(routing, 40, kExperts);
      expect_finite_weights(routing);
      const int64_t capacity = static_cast<int64_t>(
          std::ceil(factor * 40 * static_cast<double>(num_choices()) / kExperts - 1e-9));
      const at::Tensor count_E = at::bincount(routing.assignment.expert_N, {}, kExperts);
      EXPECT_LE(count_E.max().item<int64_t>(), capacity);
    }
  }
}

TEST_P(RouterConformance, CountsRequestsOfTrainingSteps) {
  RouterConfig limited = config();
  limited.capacity_factor = 0.5;
  auto router = make(limited);
  const Routing first = router->route(random_input(24, kHidden, 1), tokens_of(24));
  const Routing second = router->route(random_input(16, kHidden, 2), tokens_of(16, 24));
  router->route(random_input(16, kHidden, 2), tokens_of(16, 24), &second.assignment);
  ASSERT_TRUE(router->requested_E.defined());
  EXPECT_EQ(router->requested_E.scalar_type(), at::kFloat);
  EXPECT_EQ(router->requested_E.numel(), kExperts);
  EXPECT_EQ(router->requested_E.sum().item<double>(),
            static_cast<double>(first.num_requested + second.num_requested));
}

TEST_P(RouterConformance, GivesTheSameForTheSameSeed) {
  const at::Tensor x = random_input(32, kHidden);
  expect_equal(make(config())->route(x, tokens_of(32)), make(config())->route(x, tokens_of(32)));
}

TEST_P(RouterConformance, ReplaysTheSameRoutingAndMovesNothing) {
  for (const double factor : {0.0, 0.7}) {
    for (const char* scope : {"micro_batch", "sequence", "global_batch"}) {
      RouterConfig limited = config();
      limited.capacity_factor = factor;
      limited.aux_loss_scope = scope;
      auto router = make(limited);
      router->route(random_input(32, kHidden, 5), tokens_of(32, 0, 4));
      const at::Tensor x = random_input(32, kHidden);
      const Routing routing = router->route(x, tokens_of(32, 32, 4));
      const auto state = copy_of(state_of(*router));
      const at::Tensor requested_E = router->requested_E.clone();
      const Routing again = router->route(x, tokens_of(32, 32, 4), &routing.assignment);
      expect_equal(again, routing);
      EXPECT_TRUE(at::equal(router->requested_E, requested_E));
      for (const auto& [name, value] : state_of(*router)) {
        EXPECT_TRUE(at::equal(value, state.at(name))) << name;
      }
    }
  }
}

TEST_P(RouterConformance, KeepsTheReplayedPairsEvenWhereItWouldChooseOthersNow) {
  auto router = make(config());
  const Routing routing = router->route(random_input(16, kHidden, 1), tokens_of(16));
  const Routing other =
      router->route(random_input(16, kHidden, 2), tokens_of(16), &routing.assignment);
  EXPECT_TRUE(at::equal(other.assignment.token_N, routing.assignment.token_N));
  EXPECT_TRUE(at::equal(other.assignment.expert_N, routing.assignment.expert_N));
  expect_finite_weights(other);
}

// Central differences of sum(c * weight) + aux with the routing held by a replay, at every third
// entry.
void expect_gradients(Router& router, int64_t num_tokens) {
  for (at::Tensor& parameter : router.parameters()) {
    parameter.set_data(parameter.detach().to(at::kDouble));
  }
  const TokenContext tokens = tokens_of(num_tokens, 0, 2);
  at::Tensor x = random_input(num_tokens, kHidden).to(at::kDouble).requires_grad_();
  const Routing routing = router.route(x, tokens);
  const at::Tensor c_N = at::linspace(-1, 2, routing.weight_N.numel(), at::kDouble);
  const auto scalar = [&] {
    const Routing replayed = router.route(x, tokens, &routing.assignment);
    const at::Tensor sum = (replayed.weight_N * c_N).sum();
    return replayed.aux_loss.defined() ? sum + replayed.aux_loss : sum;
  };
  const at::Tensor value = scalar();
  if (!value.requires_grad()) {
    EXPECT_TRUE(router.parameters().empty());
    return;
  }
  std::vector<at::Tensor> inputs = router.parameters();
  inputs.push_back(x);
  const auto gradients = torch::autograd::grad({value}, inputs);
  const at::NoGradGuard no_grad;
  for (size_t i = 0; i < inputs.size(); ++i) {
    at::Tensor flat = inputs[i].detach().view(-1);
    for (int64_t j = 0; j < flat.numel(); j += 3) {
      const double before = flat[j].item<double>();
      flat[j] = before + 1e-5;
      const double above = scalar().item<double>();
      flat[j] = before - 1e-5;
      const double below = scalar().item<double>();
      flat[j] = before;
      EXPECT_NEAR(gradients[i].view(-1)[j].item<double>(), (above - below) / 2e-5, 1e-7)
          << "input " << i << " entry " << j;
    }
  }
}

TEST_P(RouterConformance, HasTheGradientOfFiniteDifferences) {
  for (const double factor : {0.0, 0.8}) {
    for (const char* scope : {"micro_batch", "sequence", "global_batch"}) {
      RouterConfig limited = config();
      limited.capacity_factor = factor;
      limited.aux_loss_scope = scope;
      expect_gradients(*make(limited), 6);
    }
  }
}

TEST_P(RouterConformance, ReplaysWithTheGradientOfTheFirstPass) {
  RouterConfig limited = config();
  limited.capacity_factor = 0.8;
  auto router = make(limited);
  at::Tensor x = random_input(20, kHidden).requires_grad_();
  const Routing first = router->route(x, tokens_of(20));
  const Routing again = router->route(x, tokens_of(20), &first.assignment);
  if (!first.weight_N.requires_grad()) return;
  const auto gradient = [&](const Routing& routing) {
    return torch::autograd::grad({routing.weight_N.square().sum() + routing.aux_loss}, {x})[0];
  };
  EXPECT_TRUE(at::equal(gradient(first), gradient(again)));
}

TEST_P(RouterConformance, SurvivesNan) {
  for (const bool training : {true, false}) {
    for (const double factor : {0.0, 0.5}) {
      RouterConfig limited = config();
      limited.capacity_factor = factor;
      auto router = make(limited);
      router->train(training);
      at::Tensor x = random_input(12, kHidden);
      x[3].fill_(std::numeric_limits<float>::quiet_NaN());
      x[7][0] = std::numeric_limits<float>::infinity();
      expect_valid(router->route(x, tokens_of(12)), 12, kExperts);
      x.fill_(std::numeric_limits<float>::quiet_NaN());
      const Routing routing = router->route(x, tokens_of(12));
      expect_valid(routing, 12, kExperts);
      if (!router->parameters().empty()) {
        EXPECT_TRUE(routing.weight_N.isnan().all().item<bool>());
      }
      const at::Tensor healthy = random_input(12, kHidden);
      expect_finite_weights(router->route(healthy, tokens_of(12)));
    }
  }
}

TEST_P(RouterConformance, RoutesHalvesOfABatchLikeTheWhole) {
  for (const bool training : {true, false}) {
    auto router = make(config());
    if (training && !router->is_causal_in_training()) continue;
    router->train(training);
    const at::Tensor x = random_input(32, kHidden);
    const Routing whole = router->route(x, tokens_of(32));
    const Routing left = router->route(x.slice(0, 0, 16), tokens_of(16));
    const Routing right = router->route(x.slice(0, 16), tokens_of(16, 16));
    EXPECT_TRUE(at::equal(whole.assignment.token_N,
                          at::cat({left.assignment.token_N, right.assignment.token_N + 16})));
    EXPECT_TRUE(at::equal(whole.assignment.expert_N,
                          at::cat({left.assignment.expert_N, right.assignment.expert_N})));
    EXPECT_TRUE(at::allclose(whole.weight_N, at::cat({left.weight_N, right.weight_N})));
  }
}

TEST_P(RouterConformance, IgnoresCapacityInEvaluationUnlessTold) {
  RouterConfig limited = config();
  limited.capacity_factor = 0.2;
  auto router = make(limited);
  router->eval();
  const at::Tensor x = random_input(40, kHidden);
  const Routing whole = router->route(x, tokens_of(40));
  const Routing last = router->route(x.slice(0, 39), tokens_of(1, 39));
  const at::Tensor mine = whole.assignment.token_N == 39;
  EXPECT_TRUE(at::equal(whole.assignment.expert_N.masked_select(mine), last.assignment.expert_N));
  if (router->is_causal_in_training()) return;
  router->set_evaluate_with_training_rule(true);
  const Routing leaking = router->route(x, tokens_of(40));
  const at::Tensor count_E = at::bincount(leaking.assignment.expert_N, {}, kExperts);
  EXPECT_LE(count_E.max().item<double>(),
            std::ceil(0.2 * 40 * static_cast<double>(num_choices()) / kExperts));
}

TEST_P(RouterConformance, ComesBackFromItsSavedState) {
  auto trained = make(config());
  for (int64_t step = 0; step < 3; ++step) {
    trained->route(random_input(32, kHidden, static_cast<uint64_t>(step)), tokens_of(32));
    trained->on_step_end(trained->requested_E);
    trained->requested_E = at::Tensor();
  }
  RouterContext elsewhere = context_of(kExperts, kHidden);
  elsewhere.layer = 5;
  auto loaded = make_router(config(), elsewhere, options_of(GetParam()));
  const at::NoGradGuard no_grad;
  auto target = state_of(*loaded);
  const auto source = state_of(*trained);
  ASSERT_EQ(target.size(), source.size());
  for (const auto& [name, value] : source) target.at(name).copy_(value);
  trained->eval();
  loaded->eval();
  const at::Tensor x = random_input(32, kHidden, 9);
  expect_equal(loaded->route(x, tokens_of(32)), trained->route(x, tokens_of(32)));
}

TEST_P(RouterConformance, NamesEveryWrongSharedSetting) {
  RouterConfig wrong = config_of(GetParam());
  wrong.capacity_factor = -1;
  wrong.aux_loss_coeff = std::numeric_limits<double>::quiet_NaN();
  wrong.drop_policy = "oldest";
  wrong.aux_loss_scope = "world";
  const auto problems = find_router(GetParam()).validate(wrong, kExperts, options_of(GetParam()));
  EXPECT_EQ(problems.size(), 4u);
  EXPECT_THROW(make(wrong), ConfigError);
}

INSTANTIATE_TEST_SUITE_P(AllRouters, RouterConformance, testing::ValuesIn(router_names()),
                         [](const auto& row) { return row.param; });

TEST(RouterTable, HasOneRowPerFileInRouters) {
  std::set<std::string> files;
  const auto folder = std::filesystem::path(LOCUS_SOURCE_DIR) / "locus/moe/routers";
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (entry.path().extension() == ".cpp") files.insert(entry.path().stem().string());
  }
  const std::vector<std::string> names = router_names();
  EXPECT_EQ(files, std::set<std::string>(names.begin(), names.end()));
  EXPECT_EQ(names.size(), router_entries().size());
}

TEST(RouterTable, SuggestsTheNearestName) {
  try {
    find_router("swich");
    FAIL() << "found";
  } catch (const ConfigError& error) {
    EXPECT_STREQ(error.what(),
                 "moe.router.type = \"swich\" is not a router (did you mean \"switch\"?); known: "
                 "top_k, switch, gshard, hash, expert_choice, base_layer, stablemoe, xmoe, "
                 "dense_to_sparse, soft, locmoe, locmoe_plus");
  }
}

}  // namespace
}  // namespace locus::moe
