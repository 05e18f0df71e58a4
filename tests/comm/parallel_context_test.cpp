#include "locus/comm/parallel_context.h"

#include <gtest/gtest.h>

#include <set>

#include "locus/comm/thread_ranks.h"

namespace locus::comm {
namespace {

TEST(Layout, IsThatOfTheHeadersPicture) {
  const Layout within{8, 4, false};
  EXPECT_EQ(within.ep_ranks(6), (std::vector<int64_t>{4, 5, 6, 7}));
  EXPECT_EQ(within.edp_ranks(6), (std::vector<int64_t>{2, 6}));
  EXPECT_EQ(within.ep_rank(6), 2);
  const Layout across{8, 4, true};
  EXPECT_EQ(across.ep_ranks(5), (std::vector<int64_t>{1, 3, 5, 7}));
  EXPECT_EQ(across.edp_ranks(5), (std::vector<int64_t>{4, 5}));
  EXPECT_EQ(across.ep_rank(5), 2);
}

// In every layout: ep groups and edp groups each cut the world into parts, and a rank is the only
// one that its two groups have in common.
TEST(Layout, CutsTheWorldIntoGroups) {
  for (const int64_t world : {1, 2, 4, 6, 8, 12}) {
    for (int64_t ep = 1; ep <= world; ++ep) {
      if (world % ep != 0) continue;
      for (const bool across : {false, true}) {
        const Layout layout{world, ep, across};
        for (int64_t rank = 0; rank < world; ++rank) {
          const std::vector<int64_t> ep_ranks = layout.ep_ranks(rank);
          const std::vector<int64_t> edp_ranks = layout.edp_ranks(rank);
          EXPECT_EQ(ep_ranks[static_cast<size_t>(layout.ep_rank(rank))], rank);
          for (const int64_t peer : ep_ranks) EXPECT_EQ(layout.ep_ranks(peer), ep_ranks);
          for (const int64_t peer : edp_ranks) {
            EXPECT_EQ(layout.edp_ranks(peer), edp_ranks);
            EXPECT_EQ(layout.ep_rank(peer), layout.ep_rank(rank));
          }
          std::set<int64_t> both(ep_ranks.begin(), ep_ranks.end());
          both.insert(edp_ranks.begin(), edp_ranks.end());
          EXPECT_EQ(static_cast<int64_t>(both.size()), ep + world / ep - 1);
        }
      }
    }
  }
}

TEST(ParallelContext, HasNoGroupWhereARankIsTheOnlyMember) {
  run_thread_ranks(2, {.expert_model_parallel_size = 2}, [](const ParallelContext& context) {
    EXPECT_NE(context.world, nullptr);
    EXPECT_NE(context.ep, nullptr);
    EXPECT_EQ(context.edp, nullptr);
    EXPECT_EQ(context.ep_rank, context.rank);
    EXPECT_EQ(context.topology.num_nodes(), 1);
  });
  run_thread_ranks(2, {}, [](const ParallelContext& context) {
    EXPECT_EQ(context.ep, nullptr);
    EXPECT_NE(context.edp, nullptr);
  });
  EXPECT_TRUE(alone().is_alone());
  EXPECT_EQ(alone().world, nullptr);
}

// A rank that has nothing else to do must not take down the links of one that still connects.
TEST(ParallelContext, IsThereOnEveryRankBeforeAnyRankLeaves) {
  const ParallelConfig config{.expert_model_parallel_size = 4, .ranks_per_node = 2};
  for (int64_t time = 0; time < 20; ++time) {
    EXPECT_NO_THROW(run_thread_ranks(4, config, [](const ParallelContext&) {}));
  }
}

}  // namespace
}  // namespace locus::comm
