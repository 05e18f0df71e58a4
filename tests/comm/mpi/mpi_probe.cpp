// Runs under mpirun: every collective over MPI against values that each rank works out by itself.
//
//   mpi_probe                  all tests of Mpi.*; exit code 77 where MPI is not available
//   mpi_probe lost             rank 0 stays away from a collective; the others end with code 4
//   mpi_probe no_group         rank 0 stays away from make_group(); the others end with code 4
//   mpi_probe two_groups       the ranks disagree about a group: code 4
//   mpi_probe too_long         rank 1 sends more than rank 0 takes: code 4
//   mpi_probe killed           rank 0 dies while the others wait
//   mpi_probe data_error       rank 0 fails by an error of its own: code 3, at once
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <numeric>
#include <string>
#include <thread>

#include "locus/base/error.h"
#include "locus/comm/mpi.h"

namespace locus::comm {
namespace {

using Group = std::shared_ptr<ProcessGroup>;

Transport* transport = nullptr;
Group everybodys_group;

std::vector<int64_t> everybody() {
  std::vector<int64_t> ranks(static_cast<size_t>(transport->world_size()));
  std::iota(ranks.begin(), ranks.end(), 0);
  return ranks;
}

const Group& world() { return everybodys_group; }

// Small whole numbers, which all types hold and whose sums over few ranks do, too.
at::Tensor values(int64_t rank, at::IntArrayRef shape, at::ScalarType type, int64_t salt = 0) {
  const int64_t num = c10::multiply_integers(shape);
  const at::Tensor x = (at::arange(num, at::kLong) * 7 + rank * 5 + salt * 3) % 13;
  return (type == at::kBool ? x % 2 : x).view(shape).to(type);
}

void expect_equal(const at::Tensor& found, const at::Tensor& expected, const std::string& what) {
  EXPECT_TRUE(at::equal(found, expected)) << what << ", rank " << world()->rank() << ": "
                                          << found.flatten().slice(0, 0, 20) << "\ninstead of\n"
                                          << expected.flatten().slice(0, 0, 20);
}

const std::vector<at::ScalarType> kAllTypes{at::kFloat, at::kDouble,  at::kInt,  at::kLong,
                                            at::kChar,  at::kByte,    at::kBool, at::kShort,
                                            at::kHalf,  at::kBFloat16};
// One, few, and more than max_count of main().
const std::vector<std::vector<int64_t>> kShapes{{1}, {0, 3}, {3, 5}, {1009}, {64, 1024}};

void check_reductions(ProcessGroup& group, at::IntArrayRef shape, at::ScalarType type, Reduce op) {
  at::Tensor expected = values(0, shape, type);
  for (int64_t r = 1; r < group.size(); ++r) {
    const at::Tensor x = values(r, shape, type);
    expected = op == Reduce::kSum   ? expected + x
               : op == Reduce::kMax ? at::maximum(expected, x)
                                    : at::minimum(expected, x);
  }
  const at::Tensor x = values(group.rank(), shape, type);
  group.all_reduce(x, op)->wait();
  expect_equal(x, expected,
               format("all_reduce {} of {}", static_cast<int>(op), at::toString(type)));
}

TEST(Mpi, ReducesAllTypes) {
  for (const at::ScalarType type : kAllTypes) {
    for (const auto& shape : kShapes) {
      for (const Reduce op : {Reduce::kSum, Reduce::kMax, Reduce::kMin}) {
        check_reductions(*world(), shape, type, op);
      }
    }
  }
}

TEST(Mpi, RoundsASumOfShortFloatsOnce) {
  // 256 + 1 is no bfloat16: added one by one, the ones would be lost.
  const at::Tensor x = at::full({3}, world()->rank() == 0 ? 256 : 1, at::kBFloat16);
  world()->all_reduce(x, Reduce::kSum)->wait();
  const at::Tensor sum = at::full({3}, 255 + world()->size(), at::kFloat);
  expect_equal(x, sum.to(at::kBFloat16), "all_reduce");
  const at::Tensor parts =
      at::full({world()->size() * 3}, world()->rank() == 0 ? 256 : 1, at::kBFloat16);
  world()->reduce_scatter(x, parts)->wait();
  expect_equal(x, sum.to(at::kBFloat16), "reduce_scatter");
}

TEST(Mpi, GathersAllTypes) {
  for (const at::ScalarType type : kAllTypes) {
    for (const auto& shape : kShapes) {
      std::vector<at::Tensor> parts;
      for (int64_t r = 0; r < world()->size(); ++r) parts.push_back(values(r, shape, type));
      const at::Tensor expected = at::cat(parts);
      const at::Tensor out = at::full_like(expected, 1);
      world()->all_gather(out, parts[static_cast<size_t>(world()->rank())])->wait();
      expect_equal(out, expected, format("all_gather of {}", at::toString(type)));
    }
  }
}

TEST(Mpi, ReduceScattersAllTypes) {
  const int64_t size = world()->size();
  for (const at::ScalarType type : kAllTypes) {
    for (const auto& shape : kShapes) {
      std::vector<int64_t> whole = shape;
      whole[0] *= size;
      at::Tensor sum = values(0, whole, type);
      for (int64_t r = 1; r < size; ++r) sum = sum + values(r, whole, type);
      const at::Tensor out = at::full(shape, 1, type);
      world()->reduce_scatter(out, values(world()->rank(), whole, type))->wait();
      expect_equal(out, sum.chunk(size)[static_cast<size_t>(world()->rank())],
                   format("reduce_scatter of {}", at::toString(type)));
    }
  }
}

TEST(Mpi, BroadcastsAllTypesFromEveryRoot) {
  for (const at::ScalarType type : kAllTypes) {
    for (const auto& shape : kShapes) {
      for (int64_t root = 0; root < world()->size(); ++root) {
        const at::Tensor x = values(world()->rank(), shape, type);
        world()->broadcast(x, root)->wait();
        expect_equal(x, values(root, shape, type), format("broadcast of {}", at::toString(type)));
      }
    }
  }
}

// How many rows rank `from` sends to rank `to`; many are zero.
int64_t num_rows(int64_t from, int64_t to, int64_t salt) {
  return std::max<int64_t>(0, (from * 31 + to * 17 + salt * 7) % 11 - 4);
}

struct Exchange {
  at::Tensor in, out, expected;
  std::vector<int64_t> in_rows, out_rows;
};

// The rows from rank a to rank b are cut out of values of their own.
Exchange new_exchange(const ProcessGroup& group, int64_t width, at::ScalarType type, int64_t salt) {
  Exchange exchange;
  std::vector<at::Tensor> sent, taken;
  const auto part = [&](int64_t from, int64_t to) {
    return values(from, {num_rows(from, to, salt), width}, type, salt + 2 * to);
  };
  for (int64_t r = 0; r < group.size(); ++r) {
    sent.push_back(part(group.rank(), r));
    taken.push_back(part(r, group.rank()));
    exchange.in_rows.push_back(sent.back().size(0));
    exchange.out_rows.push_back(taken.back().size(0));
  }
  exchange.in = at::cat(sent);
  exchange.expected = at::cat(taken);
  exchange.out = at::full_like(exchange.expected, 1);
  return exchange;
}

Pending start(ProcessGroup& group, const Exchange& e) {
  return group.all_to_all(e.out, e.in, e.out_rows, e.in_rows);
}

TEST(Mpi, ExchangesUnevenRowsOfAllTypes) {
  for (const at::ScalarType type : kAllTypes) {
    for (int64_t salt = 0; salt < 8; ++salt) {
      for (const int64_t width : {1, 3, 20000, 0}) {
        const Exchange exchange = new_exchange(*world(), width, type, salt);
        start(*world(), exchange)->wait();
        expect_equal(exchange.out, exchange.expected,
                     format("all_to_all of {} x {}", width, at::toString(type)));
      }
    }
  }
}

TEST(Mpi, ExchangesNothingAtAll) {
  const at::Tensor empty = at::empty({0, 8});
  const std::vector<int64_t> rows(static_cast<size_t>(world()->size()), 0);
  const Pending work = world()->all_to_all(empty, empty, rows, rows);
  work->wait();
  EXPECT_TRUE(work->is_done());
}

TEST(Mpi, ChecksWhatItIsGiven) {
  const at::Tensor x = at::zeros({4, 6});
  const std::vector<int64_t> rows(static_cast<size_t>(world()->size()), 1);
  EXPECT_THROW(world()->all_reduce(x.t(), Reduce::kSum), InternalError);
  EXPECT_THROW(world()->all_gather(x, at::zeros({4, 7})), InternalError);
  EXPECT_THROW(world()->reduce_scatter(at::zeros({4, 7}), x), InternalError);
  EXPECT_THROW(world()->broadcast(x, world()->size()), InternalError);
  EXPECT_THROW(world()->broadcast(x, -1), InternalError);
  const at::Tensor many = at::zeros({world()->size() + 1, 2});
  EXPECT_THROW(world()->all_to_all(many, many, rows, rows), InternalError);
  const at::Tensor right = at::zeros({world()->size(), 2});
  EXPECT_THROW(world()->all_to_all(right, right.to(at::kInt), rows, rows), InternalError);
  EXPECT_THROW(world()->all_to_all(right, right, rows, {}), InternalError);
  EXPECT_THROW(transport->make_group("twice", {0, 0}), InternalError);
  EXPECT_THROW(transport->make_group("far", {transport->world_size()}), InternalError);
}

TEST(Mpi, TellsRanksAndNames) {
  EXPECT_EQ(transport->name(), "mpi");
  EXPECT_EQ(world()->name(), "world");
  EXPECT_EQ(world()->rank(), transport->rank());
  std::vector<int64_t> backwards = everybody();
  std::reverse(backwards.begin(), backwards.end());
  const Group group = transport->make_group("backwards", backwards);
  EXPECT_EQ(group->rank(), transport->world_size() - 1 - transport->rank());
  EXPECT_EQ(group->world_rank(group->rank()), transport->rank());
  const at::Tensor x = at::full({2}, transport->rank(), at::kLong);
  group->broadcast(x, 0)->wait();
  EXPECT_EQ(x[0].item<int64_t>(), transport->world_size() - 1);
}

TEST(Mpi, LeavesOutWhoIsNoMember) {
  for (int64_t r = 0; r < transport->world_size(); ++r) {
    const Group alone = transport->make_group("alone", {r});
    EXPECT_EQ(alone != nullptr, r == transport->rank());
    if (alone == nullptr) continue;
    check_reductions(*alone, {5}, at::kFloat, Reduce::kSum);
    const Exchange exchange = new_exchange(*alone, 3, at::kInt, 5);
    start(*alone, exchange)->wait();
    expect_equal(exchange.out, exchange.expected, "all_to_all alone");
    const at::Tensor x = values(r, {2, 3}, at::kFloat);
    const at::Tensor out = at::zeros({2, 3});
    alone->all_gather(out, x)->wait();
    expect_equal(out, x, "all_gather alone");
    alone->reduce_scatter(out.zero_(), x)->wait();
    expect_equal(out, x, "reduce_scatter alone");
    alone->barrier()->wait();
  }
  EXPECT_EQ(transport->make_group("nobody", {}), nullptr);
}

TEST(Mpi, WorksInSeveralGroupsAtOnce) {
  // Halves, made in one call by each, and pairs across them; rank 3 of 3 has no pair.
  const int64_t rank = transport->rank();
  const int64_t size = transport->world_size();
  std::vector<int64_t> half, pair;
  for (const int64_t r : everybody()) {
    if (r / 2 == rank / 2) half.push_back(r);
    if (r % 2 == rank % 2) pair.push_back(r);
  }
  const Group a = transport->make_group("half", half);
  const Group b = transport->make_group("pair", pair);
  ASSERT_NE(a, nullptr);
  ASSERT_NE(b, nullptr);
  for (int round = 0; round < 20; ++round) {
    const Exchange first = new_exchange(*a, 100, at::kFloat, round);
    const Exchange second = new_exchange(*b, 1000, at::kInt, round + 1);
    const Exchange third = new_exchange(*world(), 10, at::kLong, round + 2);
    const at::Tensor x = at::full({100}, rank, at::kLong);
    const Pending works[] = {start(*a, first), world()->all_reduce(x, Reduce::kMax),
                             start(*b, second), start(*world(), third)};
    for (int i = 3; i >= 0; --i) works[i]->wait();
    expect_equal(first.out, first.expected, "half");
    expect_equal(second.out, second.expected, "pair");
    expect_equal(third.out, third.expected, "world");
    EXPECT_EQ(x[99].item<int64_t>(), size - 1);
  }
}

TEST(Mpi, ServesOneThreadForEachGroup) {
  std::vector<Group> groups;
  for (int i = 0; i < 3; ++i) groups.push_back(transport->make_group("threads", everybody()));
  std::vector<std::thread> threads;
  std::atomic<int> num_wrong = 0;
  for (int i = 0; i < 3; ++i) {
    threads.emplace_back([&, i] {
      for (int round = 0; round < 50; ++round) {
        const Exchange e = new_exchange(*groups[i], 64, at::kFloat, round + i);
        start(*groups[i], e)->wait();
        num_wrong += !at::equal(e.out, e.expected);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(num_wrong, 0);
}

TEST(Mpi, MovesDataWhileNobodyWaits) {
  // is_done() only looks: the engine's own thread has to bring each of these to its end.
  for (int round = 0; round < 3; ++round) {
    const at::Tensor x = at::ones({int64_t{1} << 20});
    const Exchange exchange = new_exchange(*world(), 100000, at::kFloat, round);
    const Pending sum = world()->all_reduce(x, Reduce::kSum);
    const Pending rows = start(*world(), exchange);
    const auto begin = std::chrono::steady_clock::now();
    while (!sum->is_done() || !rows->is_done()) {
      ASSERT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(20));
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    EXPECT_EQ(x[77].item<float>(), static_cast<float>(world()->size()));
    expect_equal(exchange.out, exchange.expected, "all_to_all");
    std::this_thread::sleep_for(std::chrono::milliseconds(20));  // the thread falls asleep
  }
}

TEST(Mpi, WaitsForWhatIsDropped) {
  const Exchange exchange = new_exchange(*world(), 50000, at::kFloat, 3);
  start(*world(), exchange).reset();
  expect_equal(exchange.out, exchange.expected, "dropped");
  const at::Tensor x = at::ones({5}, at::kBFloat16);
  world()->all_reduce(x, Reduce::kSum).reset();
  EXPECT_EQ(x[4].item<float>(), static_cast<float>(world()->size()));
}

TEST(Mpi, ReducesLeavesOfAutograd) {
  const at::Tensor x = at::ones({3}, at::kBFloat16).requires_grad_();
  world()->all_reduce(x, Reduce::kSum)->wait();
  EXPECT_EQ(x.detach()[0].item<float>(), static_cast<float>(world()->size()));
}

TEST(Mpi, HoldsEverybodyAtABarrier) {
  if (world()->rank() == 0) std::this_thread::sleep_for(std::chrono::milliseconds(200));
  world()->barrier()->wait();  // so that nobody is early below
  const auto begin = std::chrono::steady_clock::now();
  if (world()->rank() == 0) std::this_thread::sleep_for(std::chrono::milliseconds(200));
  world()->barrier()->wait();
  if (world()->size() == 1) return;
  EXPECT_GT(std::chrono::steady_clock::now() - begin, std::chrono::milliseconds(150));
}

TEST(Mpi, StartsOnce) { EXPECT_THROW(make_mpi_transport(1.0), CommError); }

void misbehave(const std::string& mode, Transport& mpi) {
  transport = &mpi;
  const bool is_first = mpi.rank() == 0;
  const auto stay_away = [] { std::this_thread::sleep_for(std::chrono::seconds(30)); };
  if (mode == "no_group") {
    if (is_first) stay_away();
    mpi.make_group("late", everybody());
  } else if (mode == "two_groups") {
    mpi.make_group(is_first ? "first" : "others", everybody());
  } else if (mode == "lost") {
    const Group group = mpi.make_group("ep", everybody());
    const at::Tensor x = at::ones({100});
    if (is_first) stay_away();
    group->all_reduce(x, Reduce::kSum)->wait();
  } else if (mode == "too_long") {
    const Group group = mpi.make_group("ep", {0, 1});
    if (group == nullptr) return stay_away();
    const at::Tensor in = at::ones({is_first ? 2 : 9, 10});
    const at::Tensor out = at::ones({2, 10});
    const std::vector<int64_t> one{1, 1};
    if (is_first) group->all_to_all(out, in, one, one)->wait();
    if (!is_first) group->all_to_all(out, in, one, {8, 1})->wait();
    stay_away();
  } else if (mode == "killed") {
    const Group group = mpi.make_group("ep", everybody());
    const Pending work = is_first ? nullptr : group->barrier();
    if (is_first) raise(SIGKILL);
    work->wait();
  } else if (mode == "data_error") {
    const Group group = mpi.make_group("ep", everybody());
    if (is_first) throw DataError("file of rank 0 is missing");
    group->barrier()->wait();
  } else {
    throw ConfigError("unknown mode {}", mode);
  }
}

int run(int argc, char** argv) {
  std::string why;
  if (!mpi_is_available(&why)) {
    std::fprintf(stderr, "MPI is not available: %s\n", why.c_str());
    return 77;
  }
  if (argc > 1 && argv[1][0] != '-') {
    const std::unique_ptr<Transport> mpi = make_mpi_transport(2.0);
    misbehave(argv[1], *mpi);
    return 0;
  }
  // Small enough that the larger tensors go in several pieces.
  const std::unique_ptr<Transport> mpi = make_mpi_transport(60.0, 1000);
  transport = mpi.get();
  everybodys_group = mpi->make_group("world", everybody());
  testing::InitGoogleTest(&argc, argv);
  const int failures = RUN_ALL_TESTS();
  everybodys_group.reset();
  return failures;
}

}  // namespace
}  // namespace locus::comm

int main(int argc, char** argv) {
  try {
    return locus::comm::run(argc, argv);
  } catch (const locus::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return error.exit_code();
  }
}
