#include "locus/placement/sequence_placer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "locus/base/random.h"

namespace locus::placement {
namespace {

// Two nodes of two ranks, which share the experts of one group: one expert each.
Neighbourhood two_nodes() { return {{0, 0, 1, 1}, {{0, 1, 2, 3}}}; }

// Domain 0 uses the experts of node 0, domain 1 those of node 1; mostly the first of each.
ExpertUse separate_use() { return {{{80, 20, 0, 0}, {0, 0, 80, 20}}}; }

std::vector<int64_t> in_order(int64_t count) {
  std::vector<int64_t> order(static_cast<size_t>(count));
  std::iota(order.begin(), order.end(), int64_t{0});
  return order;
}

TEST(SequencePlacer, BringsSequencesToTheNodeOfTheirExperts) {
  SequencePlacer placer(two_nodes(), 1, 0);
  placer.update(1, separate_use());
  const TokensByDomain tokens{{0, 10}, {10, 0}, {0, 10}, {10, 0}};
  const std::vector<int64_t> order = placer.order(1, tokens);
  const auto node_of = [&](int64_t sequence) {
    return (std::find(order.begin(), order.end(), sequence) - order.begin()) / 2;
  };
  EXPECT_EQ(node_of(0), 1);
  EXPECT_EQ(node_of(2), 1);
  EXPECT_EQ(node_of(1), 0);
  EXPECT_EQ(node_of(3), 0);
  EXPECT_DOUBLE_EQ(placer.expected_share(1, order, tokens)->on_node, 1.0);
  // As they come, one of the two sequences of each node is at home.
  EXPECT_DOUBLE_EQ(placer.expected_share(1, in_order(4), tokens)->on_node, 0.5);
  EXPECT_FALSE(placer.is_idle());
}

// The experts of domain 0 have moved to node 1.
TEST(SequencePlacer, KnowsWhereTheExpertsAre) {
  SequencePlacer placer(two_nodes(), 1, 0);
  placer.update(1, separate_use(), {{2, 3, 1, 0}});
  const TokensByDomain tokens{{0, 10}, {10, 0}, {0, 10}, {10, 0}};
  const std::vector<int64_t> order = placer.order(1, tokens);
  const auto place_of = [&](int64_t sequence) {
    return std::find(order.begin(), order.end(), sequence) - order.begin();
  };
  EXPECT_LT(place_of(0), 2);
  EXPECT_LT(place_of(2), 2);
  EXPECT_GE(place_of(1), 2);
  // Expert 0, which most of domain 0 wants, is on rank 3.
  EXPECT_NEAR(placer.expected_share(1, {0, 2, 1, 3}, tokens)->on_rank, (0.8 + 0.2 + 0.2 + 0.8) / 4,
              1e-12);
}

TEST(SequencePlacer, GivesEveryRankEquallyManyWhateverTheyHold) {
  SequencePlacer placer(two_nodes(), 1, 0);
  placer.update(1, separate_use());
  for (uint64_t seed = 0; seed < 20; ++seed) {
    TokensByDomain tokens;
    for (uint64_t i = 0; i < 16; ++i) {
      const auto first = static_cast<int64_t>(random_bits(seed, i) % 33);
      tokens.push_back({first, seed == 0 ? 0 : 32 - first});
    }
    std::vector<int64_t> order = placer.order(1, tokens);
    EXPECT_GE(placer.expected_share(1, order, tokens)->on_node,
              placer.expected_share(1, in_order(16), tokens)->on_node - 1e-12);
    for (size_t rank = 0; rank < 4; ++rank) {
      EXPECT_TRUE(std::is_sorted(order.begin() + static_cast<std::ptrdiff_t>(rank * 4),
                                 order.begin() + static_cast<std::ptrdiff_t>(rank * 4 + 4)));
    }
    std::sort(order.begin(), order.end());
    EXPECT_EQ(order, in_order(16));
  }
}

TEST(SequencePlacer, AnswersTheSameHoweverFarTheLoaderIs) {
  const TokensByDomain tokens{{0, 10}, {10, 0}, {0, 10}, {10, 0}};
  ExpertUse swapped = separate_use();
  std::swap(swapped[0][0], swapped[0][1]);
  for (auto& row : swapped[0]) {
    for (double& count : row) count *= 100;
  }
  SequencePlacer late(two_nodes(), 2, 3), early(two_nodes(), 2, 3);
  std::vector<std::vector<int64_t>> asked_early, asked_late;
  for (int64_t step = 0; step < 3; ++step) asked_early.push_back(early.order(step, tokens));
  for (int64_t step = 1; step <= 6; ++step) {
    for (SequencePlacer* placer : {&early, &late}) {
      placer->update(step, step <= 2 ? separate_use() : swapped);
    }
    asked_early.push_back(early.order(step + 2, tokens));
    if (step == 1) asked_late.push_back(late.order(0, tokens));
    asked_late.push_back(late.order(step, tokens));
  }
  for (size_t step = 0; step < asked_late.size(); ++step) {
    EXPECT_EQ(asked_late[step], asked_early[step]) << "step " << step;
  }
  EXPECT_EQ(asked_early[4], in_order(4)) << "nothing counts yet";
  EXPECT_FALSE(late.expected_share(0, in_order(4), tokens));
  EXPECT_NE(asked_early[5], in_order(4)) << "from step 2 + 3";
  EXPECT_NE(asked_early[7], asked_early[6]) << "from step 4 + 3 the other way round";
}

TEST(SequencePlacer, GoesOnFromItsState) {
  const TokensByDomain tokens{{0, 10}, {10, 0}, {5, 5}, {10, 0}};
  SequencePlacer whole(two_nodes(), 3, 2);
  for (int64_t step = 1; step <= 4; ++step) whole.update(step, separate_use());
  SequencePlacer resumed(two_nodes(), 3, 2);
  resumed.restore(whole.state());
  const ExpertUse uneven{{{1, 2, 3, 4}, {900, 3, 2, 1}}};
  for (int64_t step = 5; step <= 9; ++step) {
    EXPECT_EQ(resumed.order(step, tokens), whole.order(step, tokens));
    whole.update(step, uneven);
    resumed.update(step, uneven);
  }
  EXPECT_EQ(resumed.state().counted_MGE, whole.state().counted_MGE);
}

TEST(SequencePlacer, IsIdleWhereNoPlaceIsBetter) {
  const TokensByDomain tokens{{0, 10}, {10, 0}, {0, 10}, {10, 0}};
  SequencePlacer alike(two_nodes(), 1, 0);
  alike.update(1, {{{25, 25, 25, 25}, {50, 50, 50, 50}}});
  EXPECT_TRUE(alike.is_idle());
  EXPECT_EQ(alike.order(1, tokens), in_order(4));

  // Groups of ranks that each lie on a node.
  SequencePlacer within({{0, 0, 1, 1}, {{0, 1}, {2, 3}}}, 1, 0);
  within.update(1, {{{80, 20}, {20, 80}}});
  EXPECT_TRUE(within.is_idle());

  SequencePlacer unseen(two_nodes(), 1, 0);
  unseen.update(1, {{{0, 0, 0, 0}, {0, 0, 0, 0}}});
  EXPECT_TRUE(unseen.is_idle());
}

// More nodes than experts: those that have none can be near to nobody.
TEST(SequencePlacer, LeavesNodesWithoutExpertsTheRest) {
  SequencePlacer placer({{0, 1, 2, 3}, {{0, 1, 2, 3}}}, 1, 0);
  placer.update(1, {{{50, 0, 50, 0}, {0, 0, 100, 0}}});
  const TokensByDomain tokens{{8, 0}, {8, 0}, {0, 8}, {8, 0}};
  const std::vector<int64_t> order = placer.order(1, tokens);
  EXPECT_EQ(order[2], 2) << "only there domain 1 is at home";
  EXPECT_NEAR(placer.expected_share(1, order, tokens)->on_node, (0.5 + 1.0) / 4, 1e-12);
}

}  // namespace
}  // namespace locus::placement
