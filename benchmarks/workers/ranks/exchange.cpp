// The exchange of rows between ranks, ours and the library's by turns in the same processes:
//
//   mpirun -n 4 locus_bench_ranks exchange backend=mpi
//   python3 -m benchmarks.ranks 4 build/locus_bench_ranks exchange backend=gloo
//
// Rank 0 is the worker; the others do as it says.
#include <ATen/ATen.h>

#include <algorithm>
#include <exception>
#include <iostream>

#include "benchmarks/workers/ranks/bare_exchange.h"
#include "benchmarks/workers/serve.h"
#include "locus/app/ranks.h"
#include "locus/base/error.h"
#include "locus/comm/collectives.h"
#include "locus/comm/mpi.h"

namespace locus::benchmarks {
namespace {

struct ExchangeOptions {
  std::string backend = "gloo";
  std::vector<int64_t> bytes{4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20};
  int64_t rounds = 15;

  template <class V>
  void visit_fields(V& v) {
    v("backend", backend, "gloo | mpi");
    v("bytes", bytes, "from each rank to each");
    v("rounds", rounds, "turns of both in a repetition, of which the median counts");
  }
};

// One turn: calls one after the other for about so long.
constexpr double kSecondsOfTurn = 0.01;
constexpr double kMostCalls = 1000.0;
// What takes longer than a turn is disturbed less, and gets a third of the rounds.
constexpr int64_t kFewerRounds = 3;

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<int64_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

BareLibrary make_bare(const std::string& backend, const cluster::Launch& launch) {
  if (backend == "gloo") return make_bare_gloo(launch);
#ifdef LOCUS_BENCH_MPI
  if (backend == "mpi") return make_bare_mpi();
#endif
  throw ConfigError("backend = \"{}\" is not there", backend);
}

class Exchange {
 public:
  explicit Exchange(ExchangeOptions options)
      : options_(std::move(options)), launch_(app::find_launch()) {
    if (launch_.world_size == 1) throw ConfigError("exchange needs several ranks");
    comm::CommConfig config;
    config.backend = options_.backend;
    context_ = app::connect_ranks(launch_, {}, config, {});
    bare_ = make_bare(options_.backend, launch_);
  }
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;
  ~Exchange() {
    if (!leads() || std::uncaught_exceptions() > 0) return;
    try {
      tell(kEnd);
    } catch (const CommError& error) {
      std::cerr << "locus_bench_ranks: " << error.what() << std::endl;
    }
  }

  bool leads() const { return launch_.rank == 0; }
  const BareLibrary& bare() const { return bare_; }

  Report run() {
    if (leads()) tell(kRun);
    Report report;
    for (const int64_t bytes : options_.bytes) compare(bytes, report);
    ++num_runs_;
    return report;
  }

  void follow() {
    while (tell(0) == kRun) run();
  }

 private:
  static constexpr int64_t kEnd = 0, kRun = 1;

  // What rank 0 says, on all ranks.
  int64_t tell(int64_t what) {
    const at::Tensor x = at::full({1}, what, at::kLong);
    context_.world->broadcast(x, 0)->wait();
    return x.item<int64_t>();
  }

  void compare(int64_t bytes, Report& report) {
    comm::ProcessGroup& world = *context_.world;
    const int64_t size = world.size();
    const at::Tensor in = at::full({size * bytes}, world.rank(), at::kByte);
    const at::Tensor out = at::zeros_like(in);
    const std::vector<int64_t> rows(static_cast<size_t>(size), bytes);
    const auto ours = [&] { world.all_to_all(out, in, rows, rows)->wait(); };
    const auto bare = [&] { bare_.exchange(out, in); };
    const double once_s = seconds(1, bare, out);
    const int64_t calls =
        tell(static_cast<int64_t>(std::clamp(kSecondsOfTurn / once_s, 1.0, kMostCalls)));
    const int64_t rounds =
        calls > 1 ? options_.rounds : std::max<int64_t>(1, options_.rounds / kFewerRounds);
    std::vector<double> ours_s, bare_s;
    for (int64_t round = 0; round < rounds; ++round) {
      const bool ours_first = (round + num_runs_) % 2 == 0;
      if (ours_first) ours_s.push_back(seconds(calls, ours, out));
      bare_s.push_back(seconds(calls, bare, out));
      if (!ours_first) ours_s.push_back(seconds(calls, ours, out));
    }
    report.emplace_back(format("ours_{}", bytes), median(ours_s));
    report.emplace_back(format("bare_{}", bytes), median(bare_s));
  }

  // Of one call, the mean of the ranks. One call before makes ways and memory warm, and is looked
  // at: a byte of each rank's at the end of its part.
  template <class Call>
  double seconds(int64_t calls, Call call, const at::Tensor& out) {
    out.zero_();
    call();
    const int64_t size = context_.world_size;
    const at::Tensor last = out.view({size, -1}).select(1, -1);
    LOCUS_CHECK(at::equal(last, at::arange(size, last.options())), "wrong bytes have come");
    context_.world->barrier()->wait();
    const Stopwatch watch;
    for (int64_t i = 0; i < calls; ++i) call();
    const double own = watch.seconds() / static_cast<double>(calls * size);
    return comm::sum_over(context_.world.get(), at::full({1}, own, at::kDouble)).item<double>();
  }

  ExchangeOptions options_;
  cluster::Launch launch_;
  comm::ParallelContext context_;
  BareLibrary bare_;
  int64_t num_runs_ = 0;
};

}  // namespace

Worker make_exchange(const std::vector<std::string>& settings) {
  const auto options = parse_settings<ExchangeOptions>(settings);
  const auto exchange = std::make_shared<Exchange>(options);
  Report facts{{"bare", exchange->bare().call}};
  if (!exchange->bare().version.empty()) facts.emplace_back("library", exchange->bare().version);
  Worker worker{std::move(facts), [exchange] { return exchange->run(); }, nullptr};
  if (!exchange->leads()) worker.follow = [exchange] { exchange->follow(); };
  return worker;
}

}  // namespace locus::benchmarks
