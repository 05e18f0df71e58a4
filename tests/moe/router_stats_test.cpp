#include "locus/moe/router_stats.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/support/tensors.h"

namespace locus::moe {
namespace {

using test::integers;

// Four tokens, three experts, five assignments asked for, the one of token 3 dropped.
Routing worked_routing() {
  Routing routing;
  routing.assignment = {integers({0, 0, 1, 2}), integers({0, 2, 0, 0}), {}, {}};
  routing.weight_N = at::ones({4});
  routing.num_requested = 5;
  routing.probability_TE =
      at::tensor({1.0, 0.0, 0.0, 0.5, 0.5, 0.0, 0.25, 0.5, 0.25, 1.0, 0.0, 0.0})
          .to(at::kFloat)
          .view({4, 3});
  routing.balance_loss = at::full({}, 0.5, at::kFloat);
  routing.z_loss = at::full({}, 0.25, at::kFloat);
  routing.locality_loss = at::full({}, 0.125, at::kFloat);
  routing.balance_gradient = at::full({}, 4.0, at::kDouble);
  return routing;
}

RouterStats worked_stats(int64_t num_domains) {
  TokenContext tokens;
  tokens.domain_T = integers({1, 0, -1, 1});
  RouterStats stats;
  add_routing(stats, worked_routing(), tokens, 3, 4, num_domains);
  return stats;
}

TEST(RouterStats, AreThoseOfTheWorkedExample) {
  const RouterStats stats = worked_stats(0);
  EXPECT_EQ(stats.tokens_per_expert, (std::vector<int64_t>{3, 0, 1}));
  EXPECT_EQ(stats.num_tokens, 4);
  EXPECT_EQ(stats.num_requested, 5);
  EXPECT_EQ(stats.num_unrouted, 1);
  EXPECT_EQ(stats.num_batches, 1);
  EXPECT_DOUBLE_EQ(stats.load_max_over_mean(), 3 / (4.0 / 3));
  // Loads 3, 0, 1: mean 4/3, variance (25 + 16 + 1) / 9 / 3.
  EXPECT_DOUBLE_EQ(stats.load_cv(), std::sqrt(42.0 / 27) / (4.0 / 3));
  EXPECT_EQ(stats.dead_experts(), 1);
  EXPECT_DOUBLE_EQ(stats.dropped_share(), 0.2);
  EXPECT_DOUBLE_EQ(stats.unrouted_share(), 0.25);
  EXPECT_NEAR(stats.entropy_sum, std::log(2) + 1.5 * std::log(2), 1e-6);  // 0, ln 2, 1.5 ln 2, 0
  EXPECT_NEAR(stats.top_weight_sum, 3, 1e-6);
  EXPECT_DOUBLE_EQ(stats.balance_loss, 0.5);
  EXPECT_DOUBLE_EQ(stats.z_loss, 0.25);
  EXPECT_DOUBLE_EQ(stats.locality_loss, 0.125);
  EXPECT_DOUBLE_EQ(stats.gradient_norm(stats.balance_gradient), 2.0);
  EXPECT_TRUE(stats.domain_expert.empty());
}

TEST(RouterStats, CountKnownDomainsByExpert) {
  const RouterStats stats = worked_stats(2);
  EXPECT_EQ(stats.domain_expert, (std::vector<std::vector<int64_t>>{{1, 0, 0}, {1, 0, 1}}));
  // Domain 1 is unknown where there is but one.
  EXPECT_EQ(worked_stats(1).domain_expert, (std::vector<std::vector<int64_t>>{{1, 0, 0}}));
}

TEST(RouterStats, AddUpOverMicroBatches) {
  RouterStats stats = worked_stats(2);
  TokenContext tokens;
  tokens.domain_T = integers({0, 0, 0, 0});
  add_routing(stats, worked_routing(), tokens, 3, 4, 2);
  EXPECT_EQ(stats.tokens_per_expert, (std::vector<int64_t>{6, 0, 2}));
  EXPECT_EQ(stats.num_tokens, 8);
  EXPECT_EQ(stats.num_batches, 2);
  EXPECT_DOUBLE_EQ(stats.dropped_share(), 0.2);
  EXPECT_DOUBLE_EQ(stats.balance_loss, 1.0);
  // Of the mean of two losses over different tokens: sqrt(4 / 2^2 + 4 / 2^2).
  EXPECT_DOUBLE_EQ(stats.gradient_norm(stats.balance_gradient), std::sqrt(2.0));
  EXPECT_EQ(stats.domain_expert, (std::vector<std::vector<int64_t>>{{4, 0, 1}, {1, 0, 1}}));
}

TEST(RouterStats, OfNothingAreZero) {
  const RouterStats none;
  EXPECT_EQ(none.load_cv(), 0);
  EXPECT_EQ(none.load_max_over_mean(), 0);
  EXPECT_EQ(none.dead_experts(), 0);
  EXPECT_EQ(none.dropped_share(), 0);
  EXPECT_EQ(none.unrouted_share(), 0);
  RouterStats stats;
  Routing routing;
  const at::Tensor empty = at::empty({0}, at::kLong);
  routing.assignment = {empty, empty, {}, {}};
  routing.probability_TE = at::empty({0, 2});
  TokenContext tokens;
  tokens.domain_T = empty;
  add_routing(stats, routing, tokens, 2, 0, 2);
  EXPECT_EQ(stats.load_cv(), 0);
  EXPECT_EQ(stats.dead_experts(), 2);
  EXPECT_EQ(stats.num_batches, 1);
}

// Equation 13 as it is written, over the rows that experts computed.
TEST(RouterStats, TellHowFarApartTheTokensOfExpertsLie) {
  const at::Tensor x = at::randn({4, 5}, at::detail::createCPUGenerator(3), at::kFloat);
  const Routing routing = worked_routing();
  RouterStats stats = worked_stats(0);
  EXPECT_TRUE(std::isnan(stats.calinski_harabasz())) << "not sampled";
  add_clusters(stats, routing, x, 3);
  const at::Tensor rows = x.to(at::kDouble).index_select(0, routing.assignment.token_N);
  const at::Tensor mean = rows.mean(0);
  double between = 0, within = 0;
  for (const int64_t expert : {0, 2}) {
    const at::Tensor own = rows.index({routing.assignment.expert_N.eq(expert)});
    const at::Tensor center = own.mean(0);
    between += static_cast<double>(own.size(0)) * (center - mean).square().sum().item<double>();
    within += (own - center).square().sum().item<double>();
  }
  EXPECT_NEAR(stats.calinski_harabasz(), (between / (2 - 1)) / (within / (4 - 2)), 1e-9);
}

}  // namespace
}  // namespace locus::moe
