#include "locus/comm/emulated.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <chrono>
#include <thread>

#include "locus/base/error.h"
#include "locus/comm/thread_ranks.h"
#include "tests/support/expect_error.h"

namespace locus::comm {
namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

// 10 Mbit/s: a millisecond for 1250 bytes.
constexpr int64_t kBytesPerMs = 1250;
const EmulateConfig kSlow{.nodes = 2, .latency_us = 20'000, .gbit_per_s = 0.01};

template <class Rank>
void run_emulated(int64_t world_size, const EmulateConfig& config, Rank rank,
                  const ParallelConfig& parallel = {}) {
  const auto and_leave_together = [&](const ParallelContext& context) {
    rank(context);
    context.world->barrier()->wait();  // Gloo: who leaves early breaks up others' new groups
  };
  run_thread_ranks(world_size, parallel, and_leave_together,
                   {.timeout_s = 60.0, .emulate = config});
}

// Whole numbers of a rank's own.
at::Tensor values(int64_t rank, at::IntArrayRef shape, int64_t salt = 0) {
  return ((at::arange(c10::multiply_integers(shape)) * 7 + rank * 5 + salt * 3) % 13)
      .view(shape)
      .to(at::kFloat);
}

// Rows from rank to rank; many are zero.
int64_t num_rows(int64_t from, int64_t to) { return (3 * from + 2 * to) % 4; }

// What each kind of operation leaves, in groups of odd sizes and with rows of odd lengths.
std::vector<at::Tensor> results_of(ProcessGroup& group) {
  const int64_t size = group.size(), rank = group.rank();
  std::vector<at::Tensor> results;
  for (const Reduce op : {Reduce::kSum, Reduce::kMax, Reduce::kMin}) {
    results.push_back(values(rank, {3, 5}));
    group.all_reduce(results.back(), op)->wait();
  }
  results.push_back(at::zeros({size * 7}));
  group.all_gather(results.back(), values(rank, {7}))->wait();
  results.push_back(at::zeros({3}));
  group.reduce_scatter(results.back(), values(rank, {size * 3}))->wait();
  results.push_back(values(rank, {11}));
  group.broadcast(results.back(), size - 1)->wait();
  for (const int64_t width : {1, 9}) {
    std::vector<int64_t> in_rows, out_rows;
    int64_t sent = 0, taken = 0;
    for (int64_t peer = 0; peer < size; ++peer) {
      sent += in_rows.emplace_back(num_rows(rank, peer));
      taken += out_rows.emplace_back(num_rows(peer, rank));
    }
    results.push_back(at::zeros({taken, width}));
    group.all_to_all(results.back(), values(rank, {sent, width}), out_rows, in_rows)->wait();
  }
  const at::Tensor empty = at::empty({0, 4});
  const std::vector<int64_t> none(static_cast<size_t>(size), 0);
  group.all_to_all(empty, empty, none, none)->wait();
  group.barrier()->wait();
  return results;
}

TEST(Emulated, ChangesNoResult) {
  for (const auto& [world_size, nodes] : {std::pair(2, 1), {2, 2}, {3, 3}, {5, 5}, {6, 2}}) {
    SCOPED_TRACE(format("{} ranks on {} nodes", world_size, nodes));
    std::vector<std::vector<at::Tensor>> bare(static_cast<size_t>(world_size));
    run_thread_ranks(world_size, {}, [&](const ParallelContext& context) {
      bare[static_cast<size_t>(context.rank)] = results_of(*context.world);
    });
    const EmulateConfig config{.nodes = nodes, .latency_us = 100, .gbit_per_s = 1};
    run_emulated(world_size, config, [&](const ParallelContext& context) {
      const std::vector<at::Tensor> found = results_of(*context.world);
      const std::vector<at::Tensor>& expected = bare[static_cast<size_t>(context.rank)];
      ASSERT_EQ(found.size(), expected.size());
      for (size_t i = 0; i < found.size(); ++i) {
        EXPECT_TRUE(at::equal(found[i], expected[i])) << "result " << i << ":\n"
                                                      << found[i] << "\ninstead of\n"
                                                      << expected[i];
      }
    });
  }
}

TEST(Emulated, NamesItsNodes) {
  run_emulated(6, {.nodes = 3},
               [](const ParallelContext& context) {
                 EXPECT_EQ(context.topology.num_nodes(), 3);
                 EXPECT_EQ(context.topology.node_of(context.rank), context.rank / 2);
                 EXPECT_EQ(context.topology.node_name(2), "node2");
                 EXPECT_EQ(context.transport->name(), "gloo");
                 EXPECT_EQ(context.transport->world_size(), 6);
                 EXPECT_EQ(context.ep->name(), "ep");
                 EXPECT_EQ(context.ep->rank(), context.ep_rank);
                 EXPECT_EQ(context.ep->world_rank(context.ep_rank), context.rank);
               },
               {.expert_model_parallel_size = 3});
}

TEST(Emulated, LeavesATransportAloneWithoutNodes) {
  run_thread_ranks(2, {}, [](const ParallelContext& context) {
    EXPECT_EQ(make_emulated_transport(context.transport, {}), context.transport);
  });
}

TEST(Emulated, RefusesNodesThatDoNotDivideTheRanks) {
  for (const int64_t nodes : {3, 8, -1}) {
    const std::string error = test::error_of<ConfigError>(
        [&] { run_emulated(4, {.nodes = nodes}, [](const ParallelContext&) {}); });
    EXPECT_EQ(error, format("comm.emulate.nodes = {} does not divide the 4 ranks", nodes));
  }
}

// Rows of one byte, as many to each rank.
Pending exchange(ProcessGroup& group, int64_t num_bytes) {
  const at::Tensor in = at::zeros({num_bytes * group.size()}, at::kByte);
  const std::vector<int64_t> rows(static_cast<size_t>(group.size()), num_bytes);
  return group.all_to_all(at::zeros_like(in), in, rows, rows);
}

TEST(Emulated, TakesAtLeastTheTimeOfItsLinks) {
  run_emulated(4, kSlow, [](const ParallelContext& context) {
    ProcessGroup& world = *context.world;
    const auto expect_at_least = [&](milliseconds least, const char* what, auto start) {
      const Clock::time_point begin = Clock::now();
      start()->wait();
      EXPECT_GE(Clock::now() - begin, least) << what;
    };
    // 30 ms to each of the two ranks of the other node, and 20 ms of latency.
    expect_at_least(milliseconds(80), "all_to_all",
                    [&] { return exchange(world, 30 * kBytesPerMs); });
    const at::Tensor x = at::zeros({40 * kBytesPerMs}, at::kByte);
    // Rank 1 and 3 send 3/2 of x to the other node, and all wait for that.
    const at::Tensor f = at::zeros({10 * kBytesPerMs});
    expect_at_least(milliseconds(80), "all_reduce",
                    [&] { return world.all_reduce(f, Reduce::kSum); });
    const at::Tensor all = at::zeros({160 * kBytesPerMs}, at::kByte);
    expect_at_least(milliseconds(140), "all_gather", [&] { return world.all_gather(all, x); });
    expect_at_least(milliseconds(80), "reduce_scatter", [&] {
      return world.reduce_scatter(at::zeros({5 * kBytesPerMs}), at::zeros({20 * kBytesPerMs}));
    });
    expect_at_least(milliseconds(60), "broadcast", [&] { return world.broadcast(x, 2); });
    expect_at_least(milliseconds(20), "barrier", [&] { return world.barrier(); });
  });
}

// On links of their own they would take 60 ms.
TEST(Emulated, CarriesTwoOperationsInFlightOneAfterTheOther) {
  run_emulated(2, kSlow, [](const ParallelContext& context) {
    const auto other = context.transport->make_group("other", {0, 1});
    const Clock::time_point begin = Clock::now();
    const Pending first = exchange(*context.world, 40 * kBytesPerMs);
    const Pending second = exchange(*other, 40 * kBytesPerMs);
    second->wait();
    EXPECT_GE(Clock::now() - begin, milliseconds(100));
    first->wait();
  });
}

TEST(Emulated, HidesItsTimeBehindWhatIsComputedMeanwhile) {
  const EmulateConfig config{.nodes = 2, .latency_us = 300'000};
  run_thread_ranks(2, {}, [&](const ParallelContext& context) {
    const auto transport = make_emulated_transport(context.transport, config);
    const auto world = transport->make_group("all", {0, 1});
    const Clock::time_point begin = Clock::now();
    const Pending work = exchange(*world, 100);
    const bool was_done = work->is_done();
    if (Clock::now() - begin < milliseconds(300)) {  // else the machine was too busy to look
      EXPECT_FALSE(was_done);
    }
    std::this_thread::sleep_until(begin + milliseconds(310));
    // The emulated end has passed; the real one is soon, on a busy machine too.
    while (!work->is_done()) {
      ASSERT_LT(Clock::now() - begin, std::chrono::seconds(60));
      std::this_thread::sleep_for(milliseconds(1));
    }
    work->wait();
    EXPECT_TRUE(work->is_done());
    work->wait();  // again: returns
  });
}

TEST(Emulated, DoesNotDelayWhatStaysWithinANode) {
  // An hour of latency between the nodes.
  const EmulateConfig config{.nodes = 2, .latency_us = 3.6e9};
  run_thread_ranks(4, {}, [&](const ParallelContext& context) {
    const auto transport = make_emulated_transport(context.transport, config);
    const int64_t first = context.rank / 2 * 2;
    const auto node = transport->make_group("node", {first, first + 1});
    results_of(*node);
    // Nor an exchange of all ranks in which nothing crosses.
    const auto world = transport->make_group("all", {0, 1, 2, 3});
    std::vector<int64_t> rows(4, 0);
    rows[static_cast<size_t>(first)] = rows[static_cast<size_t>(first) + 1] = 5;
    const at::Tensor in = at::ones({10});
    world->all_to_all(at::zeros({10}), in, rows, rows)->wait();
    context.world->barrier()->wait();
  });
}

TEST(Emulated, ASlowLinkWithinTheNodeDelaysThereAlone) {
  const EmulateConfig config{.nodes = 1, .intra_latency_us = 20'000, .intra_gbit_per_s = 0.01};
  run_emulated(2, config, [](const ParallelContext& context) {
    const Clock::time_point begin = Clock::now();
    exchange(*context.world, 30 * kBytesPerMs)->wait();
    EXPECT_GE(Clock::now() - begin, milliseconds(50));
  });
}

TEST(Emulated, TellsAtOnceWhatTheTransportFailsOf) {
  // Were the emulated end waited for first, this would take an hour.
  const EmulateConfig config{.nodes = 2, .latency_us = 3.6e9};
  EXPECT_THROW(run_thread_ranks(2, {},
                                [&](const ParallelContext& context) {
                                  const auto transport =
                                      make_emulated_transport(context.transport, config);
                                  const auto world = transport->make_group("all", {0, 1});
                                  context.world->barrier()->wait();  // all have the group
                                  if (context.rank == 1) return;     // never calls
                                  world->all_reduce(at::ones({1}), Reduce::kSum)->wait();
                                },
                                {.timeout_s = 2.0}),
               CommError);
}

}  // namespace
}  // namespace locus::comm
