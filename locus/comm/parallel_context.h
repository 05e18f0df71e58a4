// The groups that this rank belongs to.
//
// All ranks together are data-parallel: each computes its own sequences of the global batch. The
// experts of a layer are spread over the ranks of an expert-parallel group (ep), E / ep of them on
// each; with more ranks than ep, ranks of equal place in their ep groups hold the same experts and
// form an expert-data-parallel group (edp).
//
//   8 ranks, ep = 4, within_node     ep groups  0 1 2 3 | 4 5 6 7      edp groups  0 4 | 1 5 | ...
//                    across_nodes    ep groups  0 2 4 6 | 1 3 5 7      edp groups  0 1 | 2 3 | ...
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "locus/cluster/topology.h"
#include "locus/comm/agreement.h"
#include "locus/comm/config.h"
#include "locus/comm/process_group.h"
#include "locus/comm/row_route.h"

namespace locus::comm {

class Activity;
class Watchdog;

// Who is in which group; torch-free arithmetic.
struct Layout {
  int64_t world_size = 1;
  int64_t expert_parallel_size = 1;
  bool across_nodes = false;

  int64_t expert_data_parallel_size() const { return world_size / expert_parallel_size; }
  int64_t ep_rank(int64_t rank) const;
  std::vector<int64_t> ep_ranks(int64_t rank) const;   // in order of ep_rank
  std::vector<int64_t> edp_ranks(int64_t rank) const;  // rising
};

struct ParallelContext {
  int64_t rank = 0;
  int64_t world_size = 1;
  int64_t local_rank = 0;  // place among the ranks of this machine: that of its GPU
  int64_t ep_rank = 0;
  int64_t ep_size = 1;
  Layout layout;
  cluster::Topology topology{1};
  std::shared_ptr<Transport> transport;  // null: this process is alone
  // Null where this rank would be the only member: callers then do nothing at all.
  std::shared_ptr<ProcessGroup> world, ep, edp;
  // The optimiser's state is shared out: over `edp` that of experts, over `world` all else.
  bool use_distributed_optimizer = false;
  // All ranks once more, for the thread that writes checkpoints: a group is one thread's at a time.
  std::shared_ptr<ProcessGroup> checkpoint;
  // The ep group by nodes; null where it lies on one node, or unevenly on several.
  std::shared_ptr<const NodeGroups> ep_nodes;
  std::vector<int64_t> ep_node_of;  // [ep_size]: node of each rank of the ep group, from 0
  ExchangeConfig exchange;          // "auto" counts as flat in one part: moe/exchange_choice.h
  // What this rank does, and who watches over it. Null: nobody does.
  std::shared_ptr<Activity> activity;
  std::shared_ptr<Watchdog> watchdog;  // the last: says how this rank ends before its groups go

  bool is_alone() const { return world_size == 1; }
};

// Alone, without a transport.
ParallelContext alone();

// All ranks call it together; `transport` connects them, `host` is the name of this rank's node.
// The sizes divide. `watchdog`: that of a watched transport (comm/watched.h), else null. What the
// ranks must have in common for it is compared first: check_agreement().
ParallelContext make_parallel_context(const ParallelConfig& config,
                                      std::shared_ptr<Transport> transport, const std::string& host,
                                      std::shared_ptr<Watchdog> watchdog = nullptr,
                                      const std::vector<Agreement>& in_common = {});

}  // namespace locus::comm
