#include "locus/moe/domain_groups.h"

#include <gtest/gtest.h>

#include "locus/base/error.h"
#include "locus/moe/pooled_gate.h"
#include "tests/moe/router_helpers.h"

namespace locus::moe {
namespace {

MoeConfig config_with(std::vector<std::string> groups) {
  MoeConfig config;
  config.num_experts = 8;
  config.router.type = "locmoe";
  config.router.top_k = 2;
  config.domain_groups = std::move(groups);
  return config;
}

TEST(DomainGroups, AreReadAsTheyAreWritten) {
  const auto groups = parse_domain_groups({"a = 0-3", "b=4,6 - 7", "x = y = 5"});
  ASSERT_EQ(groups.size(), 3u);
  EXPECT_EQ(groups[0].domain, "a");
  EXPECT_EQ(groups[0].experts, (std::vector<int64_t>{0, 1, 2, 3}));
  EXPECT_EQ(groups[1].experts, (std::vector<int64_t>{4, 6, 7}));
  EXPECT_EQ(groups[2].domain, "x = y");
}

TEST(DomainGroups, ThatCannotBeReadAreNamed) {
  for (const char* text : {"", "a", "a =", "= 1", "a = x", "a = 3-1", "a = -1", "a = 1,",
                           "a = 1--2", "a = 0-99999999999"}) {
    EXPECT_THROW(parse_domain_groups({text}), ConfigError) << text;
  }
  EXPECT_TRUE(domain_group_problems(config_with({"a = 0-3", "b = 4-7"})).empty());
  for (const auto& [groups, word] : std::vector<std::pair<std::vector<std::string>, std::string>>{
           {{"a = 0-8"}, "expert 8"},
           {{"a = 0-3", "a = 4-7"}, "twice"},
           {{"a = 0-3", "b = 4"}, "fewer than moe.router.top_k"},
           {{"a"}, "write"}}) {
    const auto problems = domain_group_problems(config_with(groups));
    ASSERT_EQ(problems.size(), 1u);
    EXPECT_NE(problems.front().find(word), std::string::npos) << problems.front();
  }
  MoeConfig dealt = config_with({});
  for (const int64_t bad : {-1, 3, 9, 8}) {
    dealt.num_domain_groups = bad;
    EXPECT_EQ(domain_group_problems(dealt).size(), 1u) << bad;
  }
}

TEST(DomainGroups, AreDealtByTokens) {
  const auto texts = deal_domains({{"a", 10}, {"b", 70}, {"c", 30}, {"d", 25}, {"e", 0}}, 2, 8);
  EXPECT_EQ(texts,
            (std::vector<std::string>{"a = 4-7", "b = 0-3", "c = 4-7", "d = 4-7", "e = 4-7"}));
}

TEST(DomainGroups, HoldTheirTokensInEveryRouterThatHeedsThem) {
  MoeConfig config = config_with({"a = 0-2", "b = 3-7"});
  int64_t num_routers = 0;
  for (const RouterEntry& entry : router_entries()) {
    if (!entry.heeds_domain_groups) continue;
    ++num_routers;
    RouterContext context = context_of(8, 32);
    context.allowed_GE = allowed_experts(config);
    config.router.type = entry.name;
    auto router = make_router(config.router, context, options_of(std::string(entry.name)));
    TokenContext tokens = tokens_of(40);
    tokens.group_T = at::arange(40).remainder(2);
    for (const bool training : {true, false}) {
      router->train(training);
      router->on_step(3, 10);
      at::Tensor x_TD = random_input(40, 32).requires_grad_(true);
      const Routing routing = router->route(x_TD, tokens, nullptr);
      const std::vector<int64_t> token = list_of(routing.assignment.token_N);
      const std::vector<int64_t> expert = list_of(routing.assignment.expert_N);
      EXPECT_GE(token.size(), 40u);
      for (size_t i = 0; i < token.size(); ++i) {
        EXPECT_EQ(expert[i] >= 3, token[i] % 2 == 1) << entry.name;
      }
      const at::Tensor probability = routing.probability_TE.sum(1);
      EXPECT_TRUE(at::allclose(probability, at::ones_like(probability), 1e-5, 1e-6));
      EXPECT_EQ(routing.probability_TE[0].slice(0, 3).sum().item<double>(), 0.0);
      at::Tensor sum = routing.weight_N.square().sum();
      if (routing.aux_loss.defined()) sum = sum + routing.aux_loss;
      sum.backward();
      EXPECT_TRUE(at::isfinite(x_TD.grad()).all().item<bool>()) << entry.name;
    }
  }
  EXPECT_GE(num_routers, 2);
}

// One group of all experts is no group.
TEST(DomainGroups, OfAllExpertsChangeNothing) {
  for (const char* name : {"locmoe", "locmoe_plus"}) {
    MoeConfig config = config_with({"a = 0-7"});
    config.router.type = name;
    RouterContext context = context_of(8, 32);
    const auto plain = make_router(config.router, context, options_of(name));
    context.allowed_GE = allowed_experts(config);
    const auto grouped = make_router(config.router, context, options_of(name));
    TokenContext tokens = tokens_of(40);
    tokens.group_T = at::zeros({40}, at::kLong);
    const at::Tensor x_TD = random_input(40, 32);
    const Routing a = plain->route(x_TD, tokens), b = grouped->route(x_TD, tokens);
    EXPECT_TRUE(at::equal(a.assignment.expert_N, b.assignment.expert_N)) << name;
    EXPECT_TRUE(at::equal(a.weight_N, b.weight_N)) << name;
  }
}

}  // namespace
}  // namespace locus::moe
