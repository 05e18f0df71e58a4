// How token rows travel to the ranks that hold their experts: a table of exchanges
// (moe/exchanges/*.cpp), and the plan that one of them makes for the assignments of one layer.
//
// The assignments are dealt into parts, whose way and computation overlap: by the experts of a rank
// (each computes all its rows at once) or by tokens. Sums over a token's experts are made part by
// part: with three experts a token and more, results differ by rounding from those of one part.
//
// T tokens of this rank, E experts in all, R ranks of the expert-parallel group, A assignments of a
// part, H rows that leave home, M rows that the experts of this rank compute.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "locus/comm/parallel_context.h"
#include "locus/comm/row_route.h"
#include "locus/moe/router.h"

namespace locus::moe {

// Where the experts of a layer are.
struct ExpertMap {
  int64_t num_experts = 0;
  std::shared_ptr<comm::ProcessGroup> group;
  std::shared_ptr<const comm::NodeGroups> nodes;  // null: one node, or uneven ones
  std::vector<int64_t> node_of;                   // [R]

  int64_t num_ranks() const { return group->size(); }
  int64_t num_nodes() const;
  int64_t experts_per_rank() const { return num_experts / group->size(); }
  int64_t rank_of(int64_t expert) const { return expert / experts_per_rank(); }
};

// One part of a rank's assignments, sorted by expert.
struct PartAssignments {
  std::vector<int64_t> place_A;  // in the routing's lists
  std::vector<int64_t> token_A, expert_A;
  int64_t num_tokens = 0;                     // of the rank: tokens are below
  int64_t first_expert = 0, num_experts = 0;  // experts of every rank, by their place on it
};

// Of one part, how much each rank has for the others; the same on all ranks.
struct PartCounts {
  explicit PartCounts(const ExpertMap& map);

  std::vector<int64_t> assignments_RE;  // [R * E]
  comm::RowMatrix tokens;               // different tokens that a rank has for a rank
  std::vector<int64_t> node_tokens_RN;  // [R * nodes] different tokens that it has for a node

  int64_t assignments(int64_t rank, int64_t expert) const {
    return assignments_RE[static_cast<size_t>(rank * num_experts + expert)];
  }
  int64_t node_tokens(int64_t rank, int64_t node) const {
    return node_tokens_RN[static_cast<size_t>(rank * num_nodes + node)];
  }
  int64_t num_experts, num_nodes;
};

// What a part's rows do. Weights are applied either at home, to the rows that come back (H rows are
// assignments then), or where the experts are, and sums come back.
struct ExchangePart {
  std::shared_ptr<comm::RowRoute> route;
  at::Tensor token_H;             // int64, token of each home row
  at::Tensor place_M;             // int64, arriving row that each expert row is a copy of
  std::vector<int64_t> counts_E;  // rows of the part's experts on this rank
  int64_t num_arriving = 0;

  at::Tensor back_M;        // int64: expert row of each arriving row; undefined: sums come back
  at::Tensor assignment_H;  // int64: whose weight each home row has; defined like back_M
  std::shared_ptr<comm::RowRoute> weight_route;  // else: weights travel, one number a row
  at::Tensor assignment_A;                       // int64: whose weight sets off, in order
  at::Tensor weight_place_M;                     // int64: arriving weight of each expert row
};

// Of one way there, from this rank.
struct ExchangeRows {
  std::vector<int64_t> spread_R, collect_R;  // rows to each rank, forwarded ones too
  int64_t inter_messages = 0;                // that leave the node, on the way there
  int64_t least_inter = 0;                   // different tokens for other nodes
  int64_t flat_inter = 0;                    // assignments to experts on other nodes
  int64_t assignments = 0;                   // to experts anywhere
};

struct ExchangePlan {
  std::vector<ExchangePart> parts;
  bool split_by_experts = false;
  ExchangeRows rows;
};

using MakeExchangePart = ExchangePart(const ExpertMap& map, const PartAssignments& part,
                                      const PartCounts& counts);

// A bit for each in exchanges/dedup.cpp.
constexpr int64_t kMostRanksPerNodeOfDedup = 63;

struct ExchangeEntry {
  std::string_view name;
  std::string_view summary;
  MakeExchangePart* make;
  bool needs_nodes;             // several nodes with equally many ranks of the group each
  bool parts_share_tokens;      // parts by experts: a token may travel in several of them
  int64_t most_ranks_per_node;  // of the group; 0: any number
};

std::span<const ExchangeEntry> exchange_entries();
std::vector<std::string> exchange_names();
// With these nodes of the expert-parallel group; null: one node, or uneven ones.
bool is_possible(const ExchangeEntry& entry, const comm::NodeGroups* nodes);
// ConfigError that lists the known names.
const ExchangeEntry& find_exchange(std::string_view name);

// All ranks of the group call it together: counts travel here, and nowhere else.
std::shared_ptr<const ExchangePlan> plan_exchange(const ExchangeEntry& entry, const ExpertMap& map,
                                                  const Assignment& assignment, int64_t num_tokens,
                                                  int64_t num_parts);

}  // namespace locus::moe
