#include "locus/moe/router_math.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <limits>

#include "tests/moe/router_helpers.h"

namespace locus::moe {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Few distinct values, so that most rows have ties; some NaN and infinities.
at::Tensor awkward_scores(int64_t rows, int64_t columns) {
  at::Tensor score = (random_input(rows, columns) * 2).round();
  score.masked_fill_(score == 3, kNan);
  score.masked_fill_(score == -3, -std::numeric_limits<float>::infinity());
  return score;
}

TEST(TopK, AgreesWithThePlainLoopOnTiesAndNan) {
  for (const int64_t columns : {1, 7, 64, 100}) {
    for (const int64_t k : {int64_t{1}, columns / 2, columns}) {
      if (k == 0) continue;
      const at::Tensor score = awkward_scores(30, columns);
      const at::Tensor best_RK = top_k(score, k);
      EXPECT_TRUE(at::equal(best_RK, generic::top_k(score, k)));
      EXPECT_TRUE(at::equal(best_RK, top_k(score.to(at::kDouble), k)));
      const auto rows = matrix_of(score);
      for (size_t r = 0; r < rows.size(); ++r) {
        EXPECT_EQ(list_of(best_RK[static_cast<int64_t>(r)]), reference::best(rows[r], k));
      }
    }
  }
}

TEST(TopK, ReadsTransposedScores) {
  const at::Tensor score = random_input(9, 5);
  EXPECT_TRUE(at::equal(top_k(score.t(), 3), top_k(score.t().contiguous(), 3)));
}

TEST(TopK, RanksNanLast) {
  EXPECT_EQ(list_of(top_k(at::tensor({kNan, -5.0f, kNan, 2.0f}).unsqueeze(0), 4)),
            (std::vector<int64_t>{3, 1, 0, 2}));
}

TEST(Capacity, RoundsUpAndTakesDecimalsAtTheirWord) {
  EXPECT_EQ(expert_capacity(1.0, 6, 1, 3), 2);
  EXPECT_EQ(expert_capacity(1.25, 6, 1, 4), 2);  // 1.875
  EXPECT_EQ(expert_capacity(1.1, 100, 1, 10), 11);
  EXPECT_EQ(expert_capacity(0.1, 3, 1, 3), 1);
  EXPECT_EQ(expert_capacity(8.0, 10, 2, 4), 10);  // at most T
  EXPECT_EQ(expert_capacity(1.0, 0, 2, 4), 0);
  EXPECT_EQ(expert_capacity(1e300, 10, 2, 4), 10);
}

TEST(Capacity, KeepsTheFirstByPrecedenceOnEveryPath) {
  const at::Tensor expert_N = awkward_scores(1, 200).nan_to_num(0, 0, 0).abs().to(at::kLong)[0] % 3;
  const at::Tensor weight_N = awkward_scores(1, 200)[0];
  for (const char* policy : {"probs", "position"}) {
    const at::Tensor order_N = precedence(policy, weight_N);
    for (const int64_t capacity : {0, 1, 20, 200}) {
      const at::Tensor keep_N = within_capacity(expert_N, order_N, 3, capacity);
      EXPECT_TRUE(at::equal(keep_N, generic::within_capacity(expert_N, order_N, 3, capacity)));
      const at::Tensor wanted_E = at::bincount(expert_N, {}, 3).clamp_max(capacity);
      EXPECT_TRUE(at::equal(at::bincount(expert_N.masked_select(keep_N), {}, 3), wanted_E));
    }
  }
}

TEST(Capacity, GivesHeavyWeightsPrecedenceAndNanNone) {
  const at::Tensor weight_N = at::tensor({0.5f, kNan, 0.9f, 0.5f});
  EXPECT_EQ(list_of(precedence("probs", weight_N)), (std::vector<int64_t>{2, 0, 3, 1}));
  EXPECT_EQ(list_of(precedence("position", weight_N)), (std::vector<int64_t>{0, 1, 2, 3}));
}

TEST(Assignment, ListsPairsTokenByToken) {
  const Assignment a = assign(at::tensor({2, 0, 1, 2}, at::kLong).reshape({2, 2}));
  EXPECT_EQ(list_of(a.token_N), (std::vector<int64_t>{0, 0, 1, 1}));
  EXPECT_EQ(list_of(a.expert_N), (std::vector<int64_t>{2, 0, 1, 2}));
  const Assignment kept = keep_where(a, at::tensor({1, 0, 0, 1}).to(at::kBool));
  EXPECT_EQ(list_of(kept.token_N), (std::vector<int64_t>{0, 1}));
  EXPECT_EQ(list_of(kept.expert_N), (std::vector<int64_t>{2, 2}));
  EXPECT_TRUE(at::equal(kept.requested_TK, a.requested_TK));
}

TEST(GateWeight, DependsOnSeedAndLayerAlone) {
  const RouterContext here = context_of(8, 512);
  RouterContext other_layer = here, other_seed = here;
  other_layer.layer += 1;
  other_seed.seed += 1;
  const at::Tensor weight = init_gate_weight(here);
  EXPECT_NEAR(weight.std().item<double>(), here.init_std, 0.02);
  EXPECT_NEAR(weight.mean().item<double>(), 0, 0.03);
  EXPECT_TRUE(at::equal(weight, init_gate_weight(here)));
  EXPECT_FALSE(at::equal(weight, init_gate_weight(other_layer)));
  EXPECT_FALSE(at::equal(weight, init_gate_weight(other_seed)));
}

TEST(CapacityOfDropShare, IsTheLeastThatDropsNoMore) {
  for (uint64_t seed = 0; seed < 50; ++seed) {
    const at::Tensor count_E =
        at::randint(0, seed % 2 == 0 ? 4 : 90, {7}, at::detail::createCPUGenerator(seed),
                    at::TensorOptions(at::kFloat));
    for (const double share : {0.0, 0.01, 0.2, 0.6, 0.999}) {
      const double allowed = share * count_E.sum().item<double>() + 1e-6;
      const auto dropped = [&](int64_t capacity) {
        return (count_E - static_cast<double>(capacity)).clamp_min(0).sum().item<double>();
      };
      int64_t least = 1;
      while (dropped(least) > allowed) ++least;
      EXPECT_EQ(capacity_of_drop_share(count_E, share), least) << seed << " " << share;
    }
  }
}

}  // namespace
}  // namespace locus::moe
