#include "locus/comm/agreement.h"

#include <gtest/gtest.h>

#include <atomic>

#include "locus/base/error.h"
#include "locus/comm/thread_ranks.h"
#include "locus/comm/together.h"
#include "tests/support/expect_error.h"

namespace locus::comm {
namespace {

using Things = std::vector<Agreement>;

// The message of the one rank that tells; all others end silently with `code`.
template <class ErrorClass>
std::string message(int64_t world_size, int code, const std::function<Things(int64_t)>& things) {
  std::atomic<int64_t> num_peers = 0;
  const std::string text = test::error_of<ErrorClass>([&] {
    run_thread_ranks(world_size, {}, [&](const ParallelContext& context) {
      try {
        check_agreement(context.world.get(), format("node{}", context.rank), things(context.rank));
      } catch (const PeerError& error) {
        EXPECT_EQ(error.exit_code(), code);
        ++num_peers;
        throw;
      }
    });
  });
  EXPECT_EQ(num_peers, world_size - 1);
  return text;
}

Agreement settings(const std::string& text) {
  return {Agreement::Kind::kSettings, "settings", text};
}
Agreement data(const std::string& text) { return {Agreement::Kind::kFiles, "training data", text}; }

TEST(Agreement, OfEqualsIsSilent) {
  for (const int64_t world_size : {1, 3}) {
    run_thread_ranks(world_size, {}, [](const ParallelContext& context) {
      check_agreement(context.world.get(), "node", {settings("a = 1\n"), data("")});
      check_agreement(context.world.get(), "node", {});
    });
  }
}

TEST(Agreement, NamesTheRankItsHostAndTheKey) {
  const auto things = [](int64_t rank) {
    return Things{settings(format("a = 1\nlr_schedule.lr = {}\n", rank == 2 ? 0.01 : 0.003))};
  };
  EXPECT_EQ(message<ConfigError>(4, 2, things),
            "rank 2 on node2 and rank 0 have different settings: lr_schedule.lr = 0.01 there and "
            "0.003 on rank 0");
}

TEST(Agreement, NamesAllRanksThatDifferAndCountsTheirKeys) {
  const auto things = [](int64_t rank) {
    const std::string more = rank == 0 ? "" : "c = 3\n";
    return Things{settings(format("a = {}\nb = {}\n{}", rank > 0, rank > 0, more))};
  };
  EXPECT_EQ(message<ConfigError>(4, 2, things),
            "rank 1 on node1 and rank 0 have different settings: a = true there and false on rank "
            "0; 2 more differ; ranks 1-3 differ from rank 0");
}

TEST(Agreement, LooksAtThingsInTheirOrder) {
  const auto things = [](int64_t rank) {
    return Things{settings(""), data(rank == 1 ? "tokens = 5" : "tokens = 7"),
                  settings(rank == 2 ? "a = 1" : "")};
  };
  EXPECT_EQ(message<DataError>(3, 3, things),
            "rank 1 on node1 and rank 0 have different training data: tokens = 5 there and 7 on "
            "rank 0");
}

// Each of several groups compares what is its own.
TEST(Agreement, TellsTheFirstGroupThatDiffers) {
  const ParallelConfig config{.expert_model_parallel_size = 2};
  std::atomic<int64_t> num_peers = 0;
  const std::string text = test::error_of<DataError>([&] {
    run_thread_ranks(4, config, [&](const ParallelContext& context) {
      try {
        together(context.world.get(), [&] {
          // Ranks 0 and 2, 1 and 3; the second group differs.
          const int64_t value = context.rank == 3 ? 5 : context.ep_rank;
          check_agreement(context.edp.get(), "node", {data(format("w = {}", value))});
        });
      } catch (const PeerError&) {
        ++num_peers;
        throw;
      }
    });
  });
  EXPECT_EQ(text,
            "rank 3 on node and rank 1 have different training data: w = 5 there and 1 on rank 1");
  EXPECT_EQ(num_peers, 3);
}

}  // namespace
}  // namespace locus::comm
