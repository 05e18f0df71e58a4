#include "locus/comm/collectives.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <atomic>

#include "locus/base/error.h"
#include "locus/comm/thread_ranks.h"
#include "locus/comm/together.h"

namespace locus::comm {
namespace {

class Ranks : public testing::TestWithParam<int64_t> {};

INSTANTIATE_TEST_SUITE_P(Worlds, Ranks, testing::Values(1, 2, 3, 5));

TEST_P(Ranks, SumToTheSameEverywhere) {
  run_thread_ranks(GetParam(), {}, [](const ParallelContext& context) {
    const auto size = static_cast<double>(context.world_size);
    for (const at::ScalarType type : {at::kFloat, at::kDouble, at::kLong}) {
      const at::Tensor x = at::full({3, 2}, context.rank + 1, type);
      const at::Tensor sum = sum_over(context.world.get(), x);
      EXPECT_TRUE(at::equal(sum, at::full({3, 2}, size * (size + 1) / 2, type)));
      EXPECT_TRUE(at::equal(x, at::full({3, 2}, context.rank + 1, type))) << "changed its input";
    }
  });
}

// Rank r has r rows (rank 0 none), all of value r.
TEST_P(Ranks, GatherRowsOfDifferentNumberInOrder) {
  run_thread_ranks(GetParam(), {}, [](const ParallelContext& context) {
    const at::Tensor own = at::full({context.rank, 2}, static_cast<double>(context.rank));
    const GatheredRows rows = gather_rows(context.world.get(), own);
    EXPECT_EQ(rows.begin, context.rank * (context.rank - 1) / 2);
    EXPECT_TRUE(at::equal(rows.all.narrow(0, rows.begin, context.rank), own));
    EXPECT_EQ(rows.all.size(0), context.world_size * (context.world_size - 1) / 2);
  });
}

TEST_P(Ranks, GatherTextsWithAnEmptyOneAmongThem) {
  run_thread_ranks(GetParam(), {}, [](const ParallelContext& context) {
    const std::vector<std::string> texts =
        gather_texts(context.world.get(), std::string(static_cast<size_t>(context.rank), 'x'));
    ASSERT_EQ(static_cast<int64_t>(texts.size()), context.world_size);
    for (size_t r = 0; r < texts.size(); ++r) EXPECT_EQ(texts[r], std::string(r, 'x'));
  });
}

TEST_P(Ranks, EndTogetherWhenOneFails) {
  std::atomic<int> own = 0, peers = 0;
  const int64_t world_size = GetParam();
  run_thread_ranks(world_size, {}, [&](const ParallelContext& context) {
    try {
      together(context.world.get(), [&] {
        if (context.rank == context.world_size - 1) throw DataError("no such file");
      });
      ADD_FAILURE() << "rank " << context.rank << " went on";
    } catch (const PeerError& error) {
      EXPECT_EQ(error.exit_code(), 3);
      EXPECT_TRUE(error.is_told_elsewhere());
      ++peers;
    } catch (const DataError& error) {
      EXPECT_STREQ(error.what(), "no such file");
      ++own;
    }
  });
  EXPECT_EQ(own, 1);
  EXPECT_EQ(peers, world_size - 1);
}

TEST(Ranks, ALostPeerIsAnErrorWithinTheDeadline) {
  EXPECT_THROW(run_thread_ranks(2, {},
                                [](const ParallelContext& context) {
                                  if (context.rank == 1) return;  // never calls
                                  sum_over(context.world.get(), at::ones({1}));
                                },
                                {.timeout_s = 2.0}),
               CommError);
}

}  // namespace
}  // namespace locus::comm
