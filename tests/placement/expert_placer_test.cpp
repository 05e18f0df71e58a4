#include "locus/placement/expert_placer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "locus/base/random.h"

namespace locus::placement {
namespace {

ExpertOfSlot in_order(size_t count) {
  ExpertOfSlot slots(count);
  std::iota(slots.begin(), slots.end(), int64_t{0});
  return slots;
}

// Tokens that cross between nodes, token by token.
double crossing(const Neighbourhood& where, const std::vector<std::vector<double>>& tokens_RE,
                const ExpertOfSlot& slots) {
  double sum = 0;
  for (const auto& group : where.ranks_of_group) {
    const size_t per_rank = slots.size() / group.size();
    for (const int64_t rank : group) {
      for (size_t slot = 0; slot < slots.size(); ++slot) {
        if (where.share_node(rank, group[slot / per_rank])) continue;
        sum += tokens_RE[static_cast<size_t>(rank)][static_cast<size_t>(slots[slot])];
      }
    }
  }
  return sum;
}

TEST(ExpertPlacer, BringsExpertsToTheNodeOfTheirTokens) {
  const Neighbourhood two_nodes{{0, 0, 1, 1}, {{0, 1, 2, 3}}};
  // Node 0 wants experts 2 and 3, node 1 wants 0 and 1.
  const std::vector<std::vector<double>> tokens{
      {0, 1, 9, 5}, {0, 0, 3, 9}, {9, 1, 0, 0}, {2, 9, 1, 0}};
  const ExpertPlan plan = plan_experts(two_nodes, tokens, in_order(4), 0);
  EXPECT_EQ(plan.expert_of_slot, (ExpertOfSlot{2, 3, 0, 1}));
  EXPECT_EQ(plan.moved, 4);
  EXPECT_EQ(plan.moved_between_nodes, 4);
  EXPECT_EQ(plan.crossed, 9 + 5 + 3 + 9 + 9 + 1 + 2 + 9);
  EXPECT_EQ(plan.crosses, 1 + 1);
  const ExpertPlan again = plan_experts(two_nodes, tokens, plan.expert_of_slot, 0);
  EXPECT_EQ(again.expert_of_slot, plan.expert_of_slot);
  EXPECT_EQ(again.moved, 0);
}

TEST(ExpertPlacer, FindsTheFewestTokensBetweenNodes) {
  for (uint64_t seed = 0; seed < 30; ++seed) {
    // Four ranks on two nodes; one group of four, or two of two that reach across nodes.
    const Neighbourhood where = seed % 2 == 0 ? Neighbourhood{{0, 0, 1, 1}, {{0, 1, 2, 3}}}
                                              : Neighbourhood{{0, 0, 1, 1}, {{0, 2}, {1, 3}}};
    std::vector<std::vector<double>> tokens(4, std::vector<double>(4));
    for (size_t i = 0; i < 16; ++i) {
      tokens[i / 4][i % 4] = static_cast<double>(random_bits(seed, i) % 20);
    }
    ExpertOfSlot now = in_order(4);
    for (size_t slot = 0; slot < 4; ++slot) {
      now[slot] = static_cast<int64_t>(permute_index(seed, slot, 4));
    }
    const ExpertPlan plan = plan_experts(where, tokens, now, 0);
    EXPECT_EQ(plan.crossed, crossing(where, tokens, now));
    EXPECT_EQ(plan.crosses, crossing(where, tokens, plan.expert_of_slot));
    ExpertOfSlot other = in_order(4);
    do {
      EXPECT_LE(plan.crosses, crossing(where, tokens, other)) << seed;
    } while (std::next_permutation(other.begin(), other.end()));
    EXPECT_TRUE(std::is_permutation(other.begin(), other.end(), plan.expert_of_slot.begin()));
  }
}

TEST(ExpertPlacer, MovesNothingWhereNobodyGains) {
  const Neighbourhood two_nodes{{0, 0, 1, 1}, {{0, 1, 2, 3}}};
  const ExpertOfSlot now{5, 2, 7, 0, 1, 3, 6, 4};
  for (const double tokens : {0.0, 3.0}) {  // none, or equally many from everywhere
    const std::vector<std::vector<double>> alike(4, std::vector<double>(8, tokens));
    const ExpertPlan plan = plan_experts(two_nodes, alike, now, 0);
    EXPECT_EQ(plan.moved, 0);
    EXPECT_EQ(plan.expert_of_slot, now);
  }
}

// Two experts would change nodes: 0 for 8 tokens with 1, 2 for 2 tokens with 3.
TEST(ExpertPlacer, MovesWhatSavesMoreThanItCostsAndNothingElse) {
  const Neighbourhood two_nodes{{0, 1}, {{0, 1}}};
  const std::vector<std::vector<double>> tokens{{0, 1, 4, 4}, {5, 0, 0, 0}};
  // 0 and 2 on node 0, 1 and 3 on node 1.
  const ExpertOfSlot now{0, 2, 1, 3};
  const ExpertPlan free = plan_experts(two_nodes, tokens, now, 0);
  EXPECT_EQ(free.moved, 2);
  EXPECT_EQ(free.crossed - free.crosses, 9);
  EXPECT_EQ(plan_experts(two_nodes, tokens, now, 4).moved, 2) << "saves 9, costs 8";
  EXPECT_EQ(plan_experts(two_nodes, tokens, now, 5).moved, 0) << "saves 9, costs 10";
}

}  // namespace
}  // namespace locus::placement
