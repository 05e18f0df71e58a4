#include "locus/comm/direct.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <utility>

#include "locus/comm/thread_ranks.h"

namespace locus::comm {
namespace {

// What `rank` brings: whole numbers, so that sums are exact in any order.
at::Tensor brought(int64_t rank, int64_t size, at::ScalarType type) {
  return at::arange(size, at::kLong).mul(7 + rank).remainder(101).sub(50 * rank).to(type);
}

at::Tensor stacked(int64_t num_ranks, int64_t size, at::ScalarType type) {
  std::vector<at::Tensor> all;
  for (int64_t rank = 0; rank < num_ranks; ++rank) all.push_back(brought(rank, size, type));
  return at::stack(all);
}

class DirectMessages : public testing::TestWithParam<int64_t> {};

// On both sides of the limit above which the transport's own collectives do it.
TEST_P(DirectMessages, AreWhatTheTransportsOwnCollectivesGive) {
  const int64_t num_ranks = GetParam();
  run_thread_ranks(num_ranks, {}, [&](const ParallelContext& parallel) {
    ProcessGroup* world = parallel.world.get();
    if (world == nullptr) return;
    for (const at::ScalarType type : {at::kFloat, at::kDouble, at::kInt, at::kLong}) {
      const auto most = kSmallMessage / static_cast<int64_t>(at::elementSize(type));
      for (const int64_t size : {int64_t{1}, int64_t{13}, most, most + 1}) {
        const at::Tensor all_RN = stacked(num_ranks, size, type);
        for (const auto& [op, expected] :
             {std::pair(Reduce::kSum, all_RN.sum(0, false, type)),
              std::pair(Reduce::kMax, all_RN.amax(0)), std::pair(Reduce::kMin, all_RN.amin(0))}) {
          const at::Tensor x = brought(parallel.rank, size, type);
          const Pending work = world->all_reduce(x, op);
          work->wait();
          work->wait();  // again, without effect
          EXPECT_TRUE(at::equal(x, expected)) << size << " " << type;
        }
        const at::Tensor out = at::empty({num_ranks * size}, type);
        world->all_gather(out, brought(parallel.rank, size, type))->wait();
        EXPECT_TRUE(at::equal(out, all_RN.reshape(-1))) << size << " " << type;
      }
    }
  });
}

TEST_P(DirectMessages, MayBeUnderWaySeveralAtATime) {
  const int64_t num_ranks = GetParam();
  run_thread_ranks(num_ranks, {}, [&](const ParallelContext& parallel) {
    if (parallel.world == nullptr) return;
    const at::Tensor sum = brought(parallel.rank, 20, at::kDouble);
    const at::Tensor all = at::empty({num_ranks * 4, 3}, at::kFloat);
    // The second comes to its end by its destructor.
    const Pending first = parallel.world->all_reduce(sum, Reduce::kSum);
    parallel.world->all_gather(all, brought(parallel.rank, 12, at::kFloat).view({4, 3}));
    first->wait();
    EXPECT_TRUE(at::equal(sum, stacked(num_ranks, 20, at::kDouble).sum(0)));
    EXPECT_TRUE(at::equal(all.view({num_ranks, 12}), stacked(num_ranks, 12, at::kFloat)));
  });
}

// To the bit: all add in one order.
TEST(DirectSums, AreTheSameOnAllRanks) {
  run_thread_ranks(4, {}, [](const ParallelContext& parallel) {
    const std::vector<float> values{1e8f, 1.0f, -1e8f, 1.0f};
    const at::Tensor x = at::full({3}, values[static_cast<size_t>(parallel.rank)]);
    parallel.world->all_reduce(x, Reduce::kSum)->wait();
    const at::Tensor all = at::empty({12});
    parallel.world->all_gather(all, x)->wait();
    EXPECT_TRUE(at::equal(all, all[0].expand({12}))) << all;
  });
}

INSTANTIATE_TEST_SUITE_P(Worlds, DirectMessages, testing::Values(1, 2, 3, 5));

}  // namespace
}  // namespace locus::comm
