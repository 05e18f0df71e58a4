// `locus topology`: nodes and ranks of a job, and what the links between them carry.

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <ostream>

#include "locus/app/commands.h"
#include "locus/app/ranks.h"
#include "locus/app/run_identity.h"
#include "locus/app/text_table.h"
#include "locus/base/error.h"
#include "locus/base/log.h"
#include "locus/base/progress.h"
#include "locus/comm/collectives.h"
#include "locus/comm/together.h"

namespace locus::app {
namespace {

constexpr int64_t kSmallest = 1 << 10, kLargest = 16 << 20;
constexpr double kSecondsPerSize = 0.2;
constexpr int64_t kMostRounds = 200, kWarmup = 2;

std::vector<int64_t> message_sizes() {
  std::vector<int64_t> sizes;
  for (int64_t bytes = kSmallest; bytes <= kLargest; bytes *= 4) sizes.push_back(bytes);
  return sizes;
}

// Every rank sends one message to the next one, all at once: seconds of a round, the slowest
// rank's.
class Ring {
 public:
  Ring(comm::ProcessGroup& group, int64_t bytes)
      : group_(group),
        out_(at::empty({bytes}, at::kByte)),
        in_(at::zeros({bytes}, at::kByte)),
        in_rows_(static_cast<size_t>(group.size())),
        out_rows_(in_rows_.size()) {
    in_rows_[static_cast<size_t>((group.rank() + 1) % group.size())] = bytes;
    out_rows_[static_cast<size_t>((group.rank() + group.size() - 1) % group.size())] = bytes;
  }

  double seconds(int64_t rounds) {
    group_.barrier()->wait();
    const auto begin = std::chrono::steady_clock::now();
    for (int64_t i = 0; i < rounds; ++i) group_.all_to_all(out_, in_, out_rows_, in_rows_)->wait();
    const double own =
        std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
    const at::Tensor slowest = at::full({1}, own / static_cast<double>(rounds), at::kDouble);
    group_.all_reduce(slowest, comm::Reduce::kMax)->wait();
    return slowest.item<double>();
  }

 private:
  comm::ProcessGroup& group_;
  at::Tensor out_, in_;
  std::vector<int64_t> in_rows_, out_rows_;
};

// The median of three.
double measure(comm::ProcessGroup& group, int64_t bytes) {
  Ring ring(group, bytes);
  const double first = ring.seconds(kWarmup);
  const auto wanted = static_cast<int64_t>(kSecondsPerSize / std::max(first, 1e-7));
  const int64_t rounds = std::clamp<int64_t>(wanted, 1, kMostRounds);
  std::vector<double> found{ring.seconds(rounds), ring.seconds(rounds), ring.seconds(rounds)};
  std::sort(found.begin(), found.end());
  return found[1];
}

// Seconds of each size, the slowest group's, the same on all ranks; groups that are not there (a
// node of one rank) do not count.
cluster::Link measure_link(comm::ProcessGroup* group, comm::ProcessGroup& world, ProgressBar& bar,
                           int64_t& done) {
  std::vector<cluster::LinkSample> samples;
  for (const int64_t bytes : message_sizes()) {
    const double own = group == nullptr ? 0.0 : measure(*group, bytes);
    const at::Tensor slowest = at::full({1}, own, at::kDouble);
    world.all_reduce(slowest, comm::Reduce::kMax)->wait();
    samples.push_back({bytes, slowest.item<double>()});
    bar.update(++done, with_commas(bytes) + " bytes");
  }
  return cluster::fit_link(samples);
}

void print_link(std::ostream& out, const std::string& name, const cluster::Link& link) {
  if (!link.is_measured()) return;
  out << format("{}: latency {:.1f} us, {:.2f} GB/s a rank\n", name, link.latency_s * 1e6,
                link.bytes_per_s / 1e9);
  TextTable table({">bytes", ">microseconds", ">GB/s"});
  for (const cluster::LinkSample& sample : link.samples) {
    table.add_row({with_commas(sample.bytes), format("{:.1f}", sample.seconds * 1e6),
                   format("{:.3f}", static_cast<double>(sample.bytes) / sample.seconds / 1e9)});
  }
  table.print(out, 2);
}

}  // namespace

void topology(const TopologyOptions& options, std::ostream& out) {
  const cluster::Launch launch = find_launch();
  if (launch.rank != 0) log::silence_stderr();
  if (launch.world_size == 1) {
    throw ConfigError(
        "locus topology measures between ranks: start it by mpirun, srun or torchrun");
  }
  comm::CommConfig config;
  config.backend = options.backend;
  comm::ParallelContext context = connect_ranks(launch, {}, config, {program_identity()});
  cluster::Topology& found = context.topology;
  const std::vector<int64_t>& neighbours = found.ranks_of(found.node_of(context.rank));
  std::vector<int64_t> counterparts;  // ranks of equal place on their nodes
  for (int64_t rank = 0; rank < context.world_size; ++rank) {
    if (found.local_index(rank) == found.local_index(context.rank)) counterparts.push_back(rank);
  }
  const auto group = [&](const char* name, const std::vector<int64_t>& ranks) {
    return context.transport->make_group(name, ranks);
  };
  const auto within = group("node", neighbours);
  const auto across = group("counterparts", counterparts);

  const bool leads = context.rank == 0;
  const auto num_sizes = static_cast<int64_t>(message_sizes().size());
  ProgressBar bar("measuring", (found.num_nodes() > 1 ? 2 : 1) * num_sizes,
                  leads ? ProgressBar::Style::kAuto : ProgressBar::Style::kSilent);
  int64_t done = 0;
  const auto usable = [](const auto& one) { return one->size() > 1 ? one.get() : nullptr; };
  if (found.num_nodes() < context.world_size) {
    found.intra_node = measure_link(usable(within), *context.world, bar, done);
  }
  if (found.num_nodes() > 1) {
    found.inter_node = measure_link(usable(across), *context.world, bar, done);
  }
  bar.finish();
  comm::together(context.world.get(), [&] {
    if (!leads) return;
    out << format("{} ranks on {} nodes, {}\n", context.world_size, found.num_nodes(),
                  context.transport->name());
    for (int64_t node = 0; node < found.num_nodes(); ++node) {
      std::string ranks;
      for (const int64_t rank : found.ranks_of(node)) ranks += format(" {}", rank);
      out << format("  {}:{}\n", found.node_name(node), ranks);
    }
    print_link(out, "within a node", found.intra_node);
    print_link(out, "between nodes", found.inter_node);
    if (!options.output.empty()) cluster::write_topology(found, options.output);
  });
}

}  // namespace locus::app
