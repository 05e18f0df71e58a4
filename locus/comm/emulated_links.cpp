#include "locus/comm/emulated_links.h"

#include <algorithm>
#include <bit>
#include <map>

namespace locus::comm {
namespace {

std::chrono::nanoseconds nanoseconds(double seconds) {
  return std::chrono::nanoseconds(static_cast<int64_t>(seconds * 1e9));
}

int64_t ceil_log2(int64_t n) { return std::bit_width(static_cast<uint64_t>(n) - 1); }

}  // namespace

TrafficModel::TrafficModel(std::vector<int64_t> node_of_rank, int64_t rank)
    : node_of_rank_(std::move(node_of_rank)), rank_(rank) {
  std::map<int64_t, int64_t> ranks_of;
  int64_t most = 1;
  for (const int64_t node : node_of_rank_) most = std::max(most, ++ranks_of[node]);
  latencies_.inter.latencies = ceil_log2(static_cast<int64_t>(ranks_of.size()));
  latencies_.intra.latencies = ceil_log2(most);
}

GroupTraffic TrafficModel::all_to_all(const std::vector<int64_t>& out_rows,
                                      const std::vector<int64_t>& in_rows,
                                      int64_t row_bytes) const {
  GroupTraffic traffic;
  for (int64_t peer = 0; peer < size(); ++peer) {
    const auto p = static_cast<size_t>(peer);
    const int64_t sent = in_rows[p] * row_bytes, taken = out_rows[p] * row_bytes;
    if (peer == rank_ || sent + taken == 0) continue;
    const bool crosses = node_of_rank_[p] != node_of_rank_[static_cast<size_t>(rank_)];
    Traffic& kind = crosses ? traffic.inter : traffic.intra;
    kind.sent_bytes += static_cast<double>(sent);
    kind.taken_bytes += static_cast<double>(taken);
    kind.latencies = 1;
  }
  return traffic;
}

GroupTraffic TrafficModel::all_reduce(int64_t bytes) const {
  const auto n = static_cast<double>(size());
  return ring(2.0 * (n - 1.0) / n * static_cast<double>(bytes), kNobody);
}

GroupTraffic TrafficModel::all_gather(int64_t bytes) const {
  return ring(static_cast<double>((size() - 1) * bytes), kNobody);
}

GroupTraffic TrafficModel::broadcast(int64_t bytes, int64_t root) const {
  return ring(static_cast<double>(bytes), root);
}

GroupTraffic TrafficModel::ring(double bytes, int64_t root) const {
  if (bytes == 0.0) return {};
  GroupTraffic traffic = latencies_;
  for (int64_t from = 0; from < size(); ++from) {
    const int64_t to = (from + 1) % size();
    if (to == root || to == from) continue;
    const bool crosses =
        node_of_rank_[static_cast<size_t>(from)] != node_of_rank_[static_cast<size_t>(to)];
    Traffic& kind = crosses ? traffic.inter : traffic.intra;
    kind.most_bytes = bytes;
    if (from == rank_) kind.sent_bytes = bytes;
    if (to == rank_) kind.taken_bytes = bytes;
  }
  return traffic;
}

EmulatedLinks::EmulatedLinks(const EmulateConfig& config) {
  const auto seconds_per_byte = [](double gbit_per_s) {
    return gbit_per_s > 0.0 ? 8e-9 / gbit_per_s : 0.0;
  };
  inter_.latency_s = config.latency_us * 1e-6;
  inter_.s_per_byte = seconds_per_byte(config.gbit_per_s);
  intra_.latency_s = config.intra_latency_us * 1e-6;
  intra_.s_per_byte = seconds_per_byte(config.intra_gbit_per_s);
}

EmulatedTime EmulatedLinks::book(EmulatedTime now, const GroupTraffic& traffic) {
  const std::lock_guard lock(mutex_);
  return std::max(inter_.book(now, traffic.inter), intra_.book(now, traffic.intra));
}

// The link is free for the next operation when the last byte has left; the latency is on the way.
EmulatedTime EmulatedLinks::Link::book(EmulatedTime now, const Traffic& traffic) {
  EmulatedTime end = now + nanoseconds(traffic.most_bytes * s_per_byte);
  const auto take = [&](EmulatedTime& free_from, double bytes) {
    if (bytes == 0.0) return;
    free_from = std::max(now, free_from) + nanoseconds(bytes * s_per_byte);
    end = std::max(end, free_from);
  };
  take(sends_from, traffic.sent_bytes);
  take(takes_from, traffic.taken_bytes);
  return end + nanoseconds(static_cast<double>(traffic.latencies) * latency_s);
}

}  // namespace locus::comm
