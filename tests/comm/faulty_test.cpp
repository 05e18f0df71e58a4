#include "tests/support/faulty.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <atomic>

#include "locus/comm/thread_ranks.h"
#include "tests/support/expect_error.h"

namespace locus::comm {
namespace {

using test::Fault;
using Clock = std::chrono::steady_clock;
using Rank = std::function<void(const ParallelContext&, ProcessGroup&)>;

constexpr int64_t kNumRanks = 3;

// With a group "it" of all ranks that has these faults.
void run_faulty(const std::vector<Fault>& faults, const Rank& rank) {
  run_thread_ranks(kNumRanks, {}, [&](const ParallelContext& context) {
    const auto transport = test::make_faulty_transport(context.transport, faults);
    EXPECT_EQ(transport->rank(), context.rank);
    const auto group = transport->make_group("it", {0, 1, 2});
    EXPECT_EQ(group->rank(), context.rank);
    rank(context, *group);
    context.world->barrier()->wait();  // Gloo: who leaves early breaks up others' new groups
  });
}

// The sum over the ranks of rank + 1, twice.
at::Tensor sum(ProcessGroup& group) {
  const at::Tensor x = at::full({2}, group.rank() + 1, at::kLong);
  group.all_reduce(x, Reduce::kSum)->wait();
  return x;
}

const at::Tensor& right_sum() {
  static const at::Tensor sum = at::full({2}, 6, at::kLong);
  return sum;
}

TEST(Faulty, CorruptsOneCallOfOneRankInOneGroup) {
  const Fault fault{.kind = Fault::kCorrupt, .group = "it", .rank = 1, .call = 2, .byte = 8};
  run_faulty({fault}, [](const ParallelContext& context, ProcessGroup& group) {
    const at::Tensor wrong = at::tensor({6, 0xff - 6}, at::kLong);
    for (int64_t call = 0; call < 4; ++call) {
      EXPECT_TRUE(at::equal(sum(*context.world), right_sum()));  // another group's: does not count
      const bool is_it = context.rank == 1 && call == 2;
      EXPECT_TRUE(at::equal(sum(group), is_it ? wrong : right_sum()))
          << context.rank << ", " << call;
    }
  });
}

TEST(Faulty, CorruptsTheResultOfEveryKindOfCall) {
  std::vector<Fault> faults;
  for (int64_t call = 0; call < 5; ++call) {
    faults.push_back({.kind = Fault::kCorrupt, .group = "it", .rank = 0, .call = call});
  }
  run_faulty(faults, [](const ParallelContext& context, ProcessGroup& group) {
    const auto zeros = [](int64_t n) { return at::zeros({n}, at::kInt); };
    const at::Tensor a = zeros(2), b = zeros(2 * kNumRanks), c = zeros(2), d = zeros(2),
                     e = zeros(kNumRanks);
    group.all_reduce(a, Reduce::kMax)->wait();
    group.all_gather(b, zeros(2))->wait();
    group.reduce_scatter(c, zeros(2 * kNumRanks))->wait();
    group.broadcast(d, 1)->wait();
    const std::vector<int64_t> one(kNumRanks, 1);
    group.all_to_all(e, zeros(kNumRanks), one, one)->wait();
    for (const at::Tensor& x : {a, b, c, d, e}) {
      EXPECT_EQ(x[0].item<int64_t>(), context.rank == 0 ? 0xff : 0);
      EXPECT_EQ(x.sum().item<int64_t>(), context.rank == 0 ? 0xff : 0);
    }
    group.barrier()->wait();
  });
}

TEST(Faulty, FailsACallByAnErrorThatNamesIt) {
  const Fault fault{.kind = Fault::kFail, .group = "it", .rank = 2, .call = 1};
  run_faulty({fault}, [](const ParallelContext& context, ProcessGroup& group) {
    EXPECT_TRUE(at::equal(sum(group), right_sum()));
    if (context.rank != 2) return;
    EXPECT_EQ(test::error_of<CommError>([&] { sum(group); }),
              "call 1 of group it, all_reduce, was made to fail");
  });
}

TEST(Faulty, DropsACallSoThatItIsNeverDone) {
  const Fault fault{.kind = Fault::kDrop, .group = "it", .rank = 1, .call = 0, .seconds = 0.1};
  run_faulty({fault}, [](const ParallelContext& context, ProcessGroup& group) {
    if (context.rank != 1) return;
    const at::Tensor x = at::ones({1});
    const Clock::time_point begin = Clock::now();
    const Pending work = group.all_reduce(x, Reduce::kSum);
    EXPECT_FALSE(work->is_done());
    EXPECT_EQ(test::error_of<CommError>([&] { work->wait(); }),
              "call 0 of group it, all_reduce, was dropped");
    EXPECT_GE(Clock::now() - begin, std::chrono::milliseconds(100));
    EXPECT_FALSE(work->is_done());
    EXPECT_EQ(x.item<double>(), 1.0);
  });
}

TEST(Faulty, DelaysACallOfOneRank) {
  const Fault fault{.kind = Fault::kDelay, .group = "it", .rank = 0, .call = 1, .seconds = 0.2};
  run_faulty({fault}, [](const ParallelContext& context, ProcessGroup& group) {
    sum(group);
    const Clock::time_point begin = Clock::now();
    EXPECT_TRUE(at::equal(sum(group), right_sum()));
    if (context.rank == 0) {
      EXPECT_GE(Clock::now() - begin, std::chrono::milliseconds(200));
    }
  });
}

TEST(Faulty, CallsWhatKillsARank) {
  struct Dead {};
  std::atomic<int> num_dead = 0;
  const Fault fault{.kind = Fault::kDie, .group = "it", .rank = 1, .call = 1, .die = [&] {
                      ++num_dead;
                      throw Dead();
                    }};
  run_faulty({fault}, [&](const ParallelContext& context, ProcessGroup& group) {
    sum(group);
    EXPECT_EQ(num_dead, 0);
    context.world->barrier()->wait();  // so that nobody looks too late
    if (context.rank == 1) {
      EXPECT_THROW(sum(group), Dead);
    }
  });
  EXPECT_EQ(num_dead, 1);
}

// As in a run: faults of the transport below, all else around it.
TEST(Faulty, WorksBelowEmulatedLinks) {
  const Fault fault{.kind = Fault::kCorrupt, .group = "edp", .rank = 0, .call = 0};
  run_thread_ranks(2, {},
                   [](const ParallelContext& context) {
                     const at::Tensor x = at::zeros({1}, at::kByte);
                     context.edp->broadcast(x, 1)->wait();
                     EXPECT_EQ(x.item<int64_t>(), context.rank == 0 ? 0xff : 0);
                   },
                   {.emulate = {.nodes = 2, .latency_us = 10},
                    .wrap = [&](auto real) { return test::make_faulty_transport(real, {fault}); }});
}

}  // namespace
}  // namespace locus::comm
