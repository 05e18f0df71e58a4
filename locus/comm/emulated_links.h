// What emulated links add to the time of operations: the arithmetic behind comm/emulated.h.
//
// Each rank has one link to the other nodes, and one to the ranks of its own node; each carries its
// own rate both ways at once. In an operation,
//
//   all_to_all       a rank's link carries the rows for (and from) the ranks that it leads to: one
//                    latency, however many messages they are
//   all_reduce       in a ring: every rank hands 2 (n - 1) / n of x to the next one
//   all_gather       in a ring: n - 1 parts
//   reduce_scatter   in a ring: n - 1 parts
//   broadcast        in a ring: all of x, but none to the root
//   barrier          nothing
//
// A ring in the order of the group's ranks crosses from node to node where neighbours sit on
// different ones; the whole ring is as slow as its slowest link. What is small goes along trees
// instead: a ring of any size has ceil(log2(nodes)) latencies. What moves no bytes takes no time, a
// barrier excepted.
#pragma once

#include <chrono>
#include <cstdint>
#include <mutex>
#include <vector>

#include "locus/comm/config.h"

namespace locus::comm {

// What an operation puts on links of one kind, seen by one rank.
struct Traffic {
  double sent_bytes = 0.0, taken_bytes = 0.0;  // over this rank's own link
  double most_bytes = 0.0;                     // over any rank's link, as far as all wait for it
  int64_t latencies = 0;                       // one after another

  bool operator==(const Traffic&) const = default;
};

struct GroupTraffic {
  Traffic inter, intra;

  bool operator==(const GroupTraffic&) const = default;
};

class TrafficModel {
 public:
  // The nodes of a group's members, in order, and the place of this rank among them.
  TrafficModel(std::vector<int64_t> node_of_rank, int64_t rank);

  GroupTraffic all_to_all(const std::vector<int64_t>& out_rows, const std::vector<int64_t>& in_rows,
                          int64_t row_bytes) const;
  // `bytes`: all of x of one rank (all_reduce, broadcast), else one part.
  GroupTraffic all_reduce(int64_t bytes) const;
  GroupTraffic all_gather(int64_t bytes) const;
  GroupTraffic reduce_scatter(int64_t bytes) const { return all_gather(bytes); }
  GroupTraffic broadcast(int64_t bytes, int64_t root) const;
  GroupTraffic barrier() const { return latencies_; }

 private:
  static constexpr int64_t kNobody = -1;
  int64_t size() const { return static_cast<int64_t>(node_of_rank_.size()); }
  // Every rank but the one before `root` hands `bytes` to the next.
  GroupTraffic ring(double bytes, int64_t root) const;

  std::vector<int64_t> node_of_rank_;
  int64_t rank_;
  GroupTraffic latencies_;  // of rings
};

using EmulatedTime = std::chrono::steady_clock::time_point;

// The links of one rank: whatever it sends, in whichever group and thread, waits for what it has
// sent before.
class EmulatedLinks {
 public:
  explicit EmulatedLinks(const EmulateConfig& config);

  // Books an operation that starts `now`; when it is done.
  EmulatedTime book(EmulatedTime now, const GroupTraffic& traffic);

 private:
  struct Link {
    double latency_s = 0.0, s_per_byte = 0.0;
    EmulatedTime sends_from, takes_from;  // when it is free again, each way

    EmulatedTime book(EmulatedTime now, const Traffic& traffic);
  };

  std::mutex mutex_;
  Link inter_, intra_;
};

}  // namespace locus::comm
