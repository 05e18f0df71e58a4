#include "locus/comm/watchdog.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <mutex>
#include <thread>

#include "locus/base/error.h"
#include "locus/comm/collectives.h"
#include "locus/comm/thread_ranks.h"
#include "locus/comm/watched.h"
#include "tests/support/faulty.h"

namespace locus::comm {
namespace {

using std::chrono::milliseconds;
using Rank = std::function<void(const ParallelContext&)>;

// What the ranks end with, one after the other.
struct Ends {
  std::vector<std::string> messages;  // of those who tell it
  int64_t num_silent = 0;
};

Ends run(int64_t world_size, const ParallelConfig& config, const ThreadRanksOptions& options,
         const Rank& rank) {
  std::mutex mutex;
  Ends ends;
  run_thread_ranks(
      world_size, config,
      [&](const ParallelContext& context) {
        try {
          rank(context);
        } catch (const CommError& error) {
          const std::lock_guard lock(mutex);
          if (error.is_told_elsewhere()) {
            ++ends.num_silent;
          } else {
            ends.messages.emplace_back(error.what());
          }
        }
      },
      options);
  return ends;
}

// All ranks; none takes part in its first call, so that wrong calls do no harm.
ThreadRanksOptions dropping(int64_t world_size, double seconds) {
  std::vector<test::Fault> faults;
  for (int64_t rank = 0; rank < world_size; ++rank) {
    faults.push_back(
        {.kind = test::Fault::kDrop, .group = "test", .rank = rank, .seconds = seconds});
  }
  return {.timeout_s = 1.0, .wrap = [faults](std::shared_ptr<Transport> real) {
            return test::make_faulty_transport(std::move(real), faults);
          }};
}

std::shared_ptr<ProcessGroup> test_group(const ParallelContext& context) {
  std::vector<int64_t> all;
  for (int64_t rank = 0; rank < context.world_size; ++rank) all.push_back(rank);
  return context.transport->make_group("test", all);
}

void expect_one_message(const Ends& ends, int64_t num_silent, const std::string& part) {
  EXPECT_EQ(ends.num_silent, num_silent);
  ASSERT_EQ(ends.messages.size(), 1U);
  EXPECT_NE(ends.messages[0].find(part), std::string::npos) << ends.messages[0];
}

TEST(Watchdog, NamesARankThatDoesNotCome) {
  const Ends ends = run(3, {}, {.timeout_s = 0.5}, [](const ParallelContext& context) {
    note_step(context.activity, 811);
    if (context.rank == 1) {
      note_phase(context.activity, "optimizer step");
      std::this_thread::sleep_for(milliseconds(1500));
      return;
    }
    note_step(context.activity, 812);
    note_phase(context.activity, "forward");
    const Note note(context.activity, "dispatch", 3);
    sum_over(context.world.get(), at::ones({4}));
  });
  expect_one_message(ends, 1,
                     "rank 1 on thread ranks has not entered dispatch of layer 3 at step 812; last "
                     "seen in optimizer step at step 811");
}

TEST(Watchdog, NamesARankThatCallsSomethingElse) {
  const Ends ends = run(3, {}, dropping(3, 0.1), [](const ParallelContext& context) {
    const auto group = test_group(context);
    if (context.rank == 2) {
      group->all_reduce(at::ones({25}), Reduce::kSum)->wait();
    } else {
      group->all_gather(at::ones({36}), at::ones({12}))->wait();
    }
  });
  expect_one_message(ends, 2,
                     "rank 2 on thread ranks calls all_reduce of 25 float32 (sum) where ranks 0, 1 "
                     "on thread ranks call all_gather of 12 float32: call 1 of group test");
}

TEST(Watchdog, NamesARankWithAnotherSize) {
  const Ends ends = run(3, {}, dropping(3, 0.1), [](const ParallelContext& context) {
    const at::Tensor rows = at::ones({6, context.rank == 0 ? 8 : 16});
    test_group(context)->all_to_all(rows, rows, {2, 2, 2}, {2, 2, 2})->wait();
  });
  expect_one_message(
      ends, 2,
      "rank 0 on thread ranks calls all_to_all of rows of 8 float32 where ranks 1, 2 "
      "on thread ranks call all_to_all of rows of 16 float32");
}

TEST(Watchdog, IsSilentWhereARankTellsItsOwnError) {
  std::atomic<int64_t> num_silent = 0;
  const auto ranks = [&] {
    run_thread_ranks(3, {},
                     [&](const ParallelContext& context) {
                       if (context.rank == 1) throw DataError("a file is missing");
                       try {
                         sum_over(context.world.get(), at::ones({4}));
                       } catch (const CommError& error) {
                         if (error.is_told_elsewhere()) ++num_silent;
                         throw;
                       }
                     },
                     {.timeout_s = 5.0});
  };
  EXPECT_THROW(ranks(), DataError);
  EXPECT_EQ(num_silent, 2);
}

// Half of the ranks wait in their own group for one that is held up in another.
TEST(Watchdog, FollowsTheRanksOfOtherGroups) {
  const ParallelConfig config{.expert_model_parallel_size = 2};
  const Ends ends = run(4, config, {.timeout_s = 0.5}, [](const ParallelContext& context) {
    if (context.rank == 3) {
      note_phase(context.activity, "data");
      std::this_thread::sleep_for(milliseconds(1500));
      return;
    }
    note_phase(context.activity, "forward");
    sum_over(context.ep.get(), at::ones({4}));
    sum_over(context.world.get(), at::ones({2}));
  });
  expect_one_message(ends, 2, "rank 3 on thread ranks has not entered all_reduce of group ");
  EXPECT_NE(ends.messages[0].find("last seen in data"), std::string::npos) << ends.messages[0];
}

TEST(Watchdog, FindsCallsThatDifferAndDoNotHang) {
  const ParallelConfig config{.expert_model_parallel_size = 2};
  const auto ends = [&](bool is_wrong) {
    return run(4, config, {.timeout_s = 5.0}, [&](const ParallelContext& context) {
      const auto balance = [&] {
        const at::Tensor sum = at::full({1}, call_balance(context), at::kDouble);
        return sum_over(context.world.get(), sum).item<double>();
      };
      // Rows that differ in number are no difference.
      const int64_t rows = context.rank + 1;
      gather_rows(context.world.get(), at::ones({rows, 2}));
      EXPECT_EQ(balance(), 0.0);
      const at::ScalarType type = is_wrong && context.rank == 2 ? at::kInt : at::kFloat;
      context.ep->all_gather(at::zeros({6}, type), at::zeros({3}, type))->wait();
      check_call_balance(context, balance());
    });
  };
  const Ends right = ends(false);
  EXPECT_EQ(right.messages.size(), 0U);
  EXPECT_EQ(right.num_silent, 0);
  expect_one_message(ends(true), 3,
                     "rank 3 on thread ranks calls all_gather of 3 float32 where rank 2 on thread "
                     "ranks calls all_gather of 3 int32");
}

// The library below neither answers nor fails. Nor does the other rank: it is dead, and what it
// once said is all there is.
TEST(Watchdog, EndsAProcessThatWaitsForEver) {
  const std::shared_ptr<Store> store = make_memory_store();
  Activity dead(2, "node7");
  dead.set_phase("backward");
  store->set("watch/0/rank/1", to_text(dead.report()));
  // Shared: the watchdog's last thread may outlive this test.
  struct Seen {
    std::mutex mutex;
    std::vector<std::string> told;
    bool has_ended = false;
  };
  const auto seen = std::make_shared<Seen>();
  WatchdogSettings settings{.rank = 0, .world_size = 2, .host = "node1", .timeout_s = 0.2};
  settings.grace_s = 0.1;
  settings.tell = [seen](const std::string& message) {
    const std::lock_guard lock(seen->mutex);
    seen->told.push_back(message);
  };
  settings.end = [seen] {
    const std::lock_guard lock(seen->mutex);
    seen->has_ended = true;
  };
  Watchdog watchdog(settings, {store});
  const size_t group = watchdog.activity()->add_group("world", {0, 1}, 1);
  watchdog.activity()->wait_begins(group, watchdog.activity()->enter(group, {}));
  for (int i = 0; i < 1000; ++i) {
    std::this_thread::sleep_for(milliseconds(10));
    const std::lock_guard lock(seen->mutex);
    if (seen->has_ended) break;
  }
  const std::lock_guard lock(seen->mutex);
  EXPECT_TRUE(seen->has_ended);
  ASSERT_EQ(seen->told.size(), 1U);
  EXPECT_NE(seen->told[0].find(
                "rank 1 on node7 has not entered barrier of group world (start); last seen "
                "in backward, not heard of for "),
            std::string::npos)
      << seen->told[0];
}

}  // namespace
}  // namespace locus::comm
