#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "locus/base/error.h"
#include "tests/moe/router_helpers.h"
#include "tests/support/expect_error.h"

namespace locus::moe {
namespace {

RouterConfig hash_config(int64_t k) {
  RouterConfig config = config_of("hash");
  config.top_k = k;
  return config;
}

std::shared_ptr<Router> hash_router(const std::string& table, int64_t k,
                                    const RouterContext& context) {
  return make_router(hash_config(k), context, options_of("hash", "table = \"" + table + "\"\n"));
}

at::Tensor table_of(Router& router) { return router.named_buffers()["table"]; }

RouterContext counted(int64_t num_experts, std::vector<int64_t> frequency) {
  RouterContext context = context_of(num_experts, 4);
  context.vocab_size = static_cast<int64_t>(frequency.size());
  context.token_frequency = std::move(frequency);
  return context;
}

// Zipf's law: the v-th id occurs about a million / v times.
std::vector<int64_t> zipf(int64_t size) {
  std::vector<int64_t> frequency;
  for (int64_t v = 1; v <= size; ++v) frequency.push_back(1000000 / v);
  return frequency;
}

std::vector<int64_t> loads_of(Router& router, const RouterContext& context) {
  std::vector<int64_t> loads(static_cast<size_t>(context.num_experts), 0);
  const auto table = list_of(table_of(router)[0]);
  for (size_t id = 0; id < table.size(); ++id) {
    loads[static_cast<size_t>(table[id])] += context.token_frequency[id];
  }
  return loads;
}

TEST(HashRouter, SendsAnIdToItsRemainder) {
  auto router = hash_router("modulo", 1, context_of(5, 4));
  TokenContext tokens = tokens_of(4);
  tokens.id_T = at::tensor({0, 7, 96, 7}, at::kLong);
  const Routing routing = router->route(at::zeros({4, 4}), tokens);
  EXPECT_EQ(list_of(routing.assignment.expert_N), (std::vector<int64_t>{0, 2, 1, 2}));
  expect_near(numbers_of(routing.weight_N), {1, 1, 1, 1}, 0);
  EXPECT_FALSE(routing.aux_loss.defined());
}

TEST(HashRouter, BalancesByFrequencyAsInTheWorkedExamples) {
  const std::vector<int64_t> counts{50, 20, 10, 8, 6, 3, 2, 1};
  const RouterContext two = counted(2, counts), three = counted(3, counts);
  EXPECT_EQ(list_of(table_of(*hash_router("balanced", 1, two))[0]),
            (std::vector<int64_t>{0, 1, 1, 1, 1, 1, 1, 1}));
  EXPECT_EQ(list_of(table_of(*hash_router("balanced", 1, three))[0]),
            (std::vector<int64_t>{0, 1, 2, 2, 2, 1, 1, 2}));
  EXPECT_EQ(loads_of(*hash_router("balanced", 1, three), three),
            (std::vector<int64_t>{50, 25, 25}));
}

TEST(HashRouter, BalancesZipfToTheLimitThatTheTopTokenSets) {
  const RouterContext context = counted(8, zipf(50257));
  const auto loads = loads_of(*hash_router("balanced", 1, context), context);
  const double mean =
      static_cast<double>(std::accumulate(loads.begin(), loads.end(), int64_t{0})) / 8;
  const auto largest = static_cast<double>(*std::max_element(loads.begin(), loads.end()));
  EXPECT_LT(largest / mean, 1.0001);
  const auto random = loads_of(*hash_router("random", 1, context), context);
  EXPECT_GT(static_cast<double>(*std::max_element(random.begin(), random.end())) / mean, 1.1);
}

TEST(HashRouter, SpreadsIdsThatNeverOccur) {
  std::vector<int64_t> frequency(40, 0);
  frequency[3] = 4;
  auto router = hash_router("balanced", 1, counted(4, frequency));
  const auto ids = list_of(at::bincount(table_of(*router)[0], {}, 4));
  EXPECT_EQ(*std::min_element(ids.begin(), ids.end()), 8);  // the frequent one and 7 others
}

TEST(HashRouter, GivesEveryExpertEquallyManyIdsAtRandom) {
  auto router = hash_router("random", 1, context_of(8, 4));
  const auto ids = list_of(at::bincount(table_of(*router)[0], {}, 8));
  EXPECT_EQ(*std::min_element(ids.begin(), ids.end()), 12);  // 97 ids
  EXPECT_EQ(*std::max_element(ids.begin(), ids.end()), 13);
  RouterContext other_layer = context_of(8, 4), other_seed = context_of(8, 4);
  other_layer.layer = 9;
  other_seed.seed = 8;
  EXPECT_TRUE(at::equal(table_of(*router), table_of(*hash_router("random", 1, other_layer))));
  EXPECT_FALSE(at::equal(table_of(*router), table_of(*hash_router("random", 1, other_seed))));
}

TEST(HashRouter, GivesSeveralDifferentExpertsWithEqualWeight) {
  const RouterContext context = counted(4, zipf(97));
  for (const char* table : {"modulo", "random", "balanced"}) {
    for (const int64_t k : {2, 4}) {
      auto router = hash_router(table, k, context);
      const at::Tensor sorted = std::get<0>(table_of(*router).sort(0));
      EXPECT_TRUE((sorted.slice(0, 1) > sorted.slice(0, 0, k - 1)).all().item<bool>());
      const Routing routing = router->route(at::zeros({10, 4}), tokens_of(10));
      expect_near(numbers_of(routing.weight_N),
                  std::vector<double>(static_cast<size_t>(10 * k), 1.0 / static_cast<double>(k)),
                  0);
    }
  }
}

TEST(HashRouter, ForgetsTheHiddenState) {
  auto router = hash_router("random", 2, context_of(8, 4));
  const at::Tensor x = random_input(20, 4).requires_grad_();
  const Routing a = router->route(x, tokens_of(20));
  const Routing b = router->route(x * 3 - 1, tokens_of(20));
  EXPECT_TRUE(at::equal(a.assignment.expert_N, b.assignment.expert_N));
  EXPECT_FALSE(a.weight_N.requires_grad());
  EXPECT_TRUE(router->parameters().empty());
}

TEST(HashRouter, NamesWhatTheBalancedTableLacks) {
  EXPECT_EQ(test::error_of<ConfigError>([] { hash_router("balanced", 1, context_of(8, 4)); }),
            "moe.hash.table = \"balanced\" needs the token counts of the training data, and there "
            "are none; prepare the data anew, or use \"random\" or \"modulo\"");
  RouterContext short_counts = context_of(8, 4);
  short_counts.token_frequency = {1, 2, 3};
  EXPECT_EQ(test::error_of<ConfigError>([&] { hash_router("balanced", 1, short_counts); }),
            "moe.hash.table = \"balanced\": the training data counts 3 token ids, the model's "
            "vocabulary has 97");
}

TEST(HashRouter, ReportsImpossibleSettings) {
  EXPECT_EQ(only_problem(hash_config(5), 4),
            "moe.router.top_k = 5: must be 1 to moe.num_experts = 4");
  EXPECT_EQ(only_problem(hash_config(1), 4, "table = \"md5\"\n"),
            "moe.hash.table = \"md5\" is not known; known: modulo, random, balanced");
  RouterConfig with_z_loss = hash_config(1);
  with_z_loss.z_loss_coeff = 0.5;
  EXPECT_EQ(only_problem(with_z_loss, 4),
            "moe.router.z_loss_coeff = 0.5: the hash router has no logits; set 0");
}

}  // namespace
}  // namespace locus::moe
