#include "locus/moe/exchange.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>

#include "locus/base/error.h"

namespace locus::moe {

// Defined in exchanges/<name>.cpp.
MakeExchangePart make_flat_part, make_hierarchical_part, make_dedup_part;

namespace {

constexpr ExchangeEntry kExchanges[] = {
    {"flat", "one all-to-all each way", make_flat_part, false, true, 0},
    {"hierarchical", "within the node, then one message to each other node; results of flat",
     make_hierarchical_part, true, true, 0},
    {"dedup", "a token crosses to a node once, sums come back; rounds differently than flat",
     make_dedup_part, true, false, kMostRanksPerNodeOfDedup},
};

// By experts where every part gets some; a token's assignments stay together otherwise.
std::vector<PartAssignments> deal(const ExpertMap& map, const Assignment& assignment,
                                  int64_t num_tokens, int64_t num_parts, bool by_experts) {
  const at::Tensor token_N = assignment.token_N.cpu().contiguous();
  const at::Tensor expert_N = assignment.expert_N.cpu().contiguous();
  const int64_t num = token_N.numel();
  const auto* token = token_N.const_data_ptr<int64_t>();
  const auto* expert = expert_N.const_data_ptr<int64_t>();

  std::vector<int64_t> first(static_cast<size_t>(map.num_experts) + 1);
  for (int64_t n = 0; n < num; ++n) {
    LOCUS_CHECK(expert[n] >= 0 && expert[n] < map.num_experts, "expert {} of {}", expert[n],
                map.num_experts);
    ++first[static_cast<size_t>(expert[n]) + 1];
  }
  std::partial_sum(first.begin(), first.end(), first.begin());
  std::vector<int64_t> order(static_cast<size_t>(num));  // by expert, stable
  for (int64_t n = 0; n < num; ++n) {
    order[static_cast<size_t>(first[static_cast<size_t>(expert[n])]++)] = n;
  }

  const int64_t experts = map.experts_per_rank();
  std::vector<PartAssignments> parts(static_cast<size_t>(num_parts));
  for (int64_t p = 0; p < num_parts; ++p) {
    PartAssignments& part = parts[static_cast<size_t>(p)];
    part.num_tokens = num_tokens;
    // The experts x of a rank with x * num_parts / experts == p.
    part.first_expert = by_experts ? (p * experts + num_parts - 1) / num_parts : 0;
    const int64_t end = by_experts ? ((p + 1) * experts + num_parts - 1) / num_parts : experts;
    part.num_experts = end - part.first_expert;
  }
  for (const int64_t n : order) {
    const int64_t key = by_experts ? expert[n] % experts * num_parts / experts
                                   : token[n] * num_parts / std::max<int64_t>(num_tokens, 1);
    PartAssignments& part = parts[static_cast<size_t>(key)];
    part.place_A.push_back(n);
    part.token_A.push_back(token[n]);
    part.expert_A.push_back(expert[n]);
  }
  return parts;
}

// Different tokens of a part by some key of their experts' ranks, key rising with the rank.
class TokenCounter {
 public:
  explicit TokenCounter(int64_t num_tokens) : last_T_(static_cast<size_t>(num_tokens), -1) {}

  // Whether the token is new since another `key`.
  bool is_new(int64_t token, int64_t key) {
    int64_t& last = last_T_[static_cast<size_t>(token)];
    if (last == key) return false;
    last = key;
    return true;
  }

 private:
  std::vector<int64_t> last_T_;
};

// This rank's line of PartCounts: [E] assignments, [R] tokens, [nodes] tokens.
void count_part(const ExpertMap& map, const PartAssignments& part, int64_t* line) {
  int64_t* tokens_R = line + map.num_experts;
  int64_t* tokens_N = tokens_R + map.num_ranks();
  TokenCounter of_rank(part.num_tokens);
  for (size_t a = 0; a < part.token_A.size(); ++a) {
    const int64_t rank = map.rank_of(part.expert_A[a]);
    ++line[part.expert_A[a]];
    if (of_rank.is_new(part.token_A[a], rank)) ++tokens_R[rank];
  }
  for (int64_t node = 0; node < map.num_nodes(); ++node) {
    TokenCounter of_node(part.num_tokens);
    for (size_t a = 0; a < part.token_A.size(); ++a) {
      const int64_t rank = map.rank_of(part.expert_A[a]);
      if (map.node_of[static_cast<size_t>(rank)] != node) continue;
      if (of_node.is_new(part.token_A[a], node)) ++tokens_N[node];
    }
  }
}

// Of all ranks, in one collective.
std::vector<PartCounts> exchange_counts(const ExpertMap& map,
                                        const std::vector<PartAssignments>& parts) {
  const int64_t ranks = map.num_ranks(), experts = map.num_experts, nodes = map.num_nodes();
  const int64_t line = experts + ranks + nodes;
  const auto num_parts = static_cast<int64_t>(parts.size());
  const at::Tensor own = at::zeros({num_parts * line}, at::kLong);
  for (int64_t p = 0; p < num_parts; ++p) {
    count_part(map, parts[static_cast<size_t>(p)], own.mutable_data_ptr<int64_t>() + p * line);
  }
  const at::Tensor all = at::empty({ranks * num_parts * line}, at::kLong);
  map.group->all_gather(all, own)->wait();
  std::vector<PartCounts> counts(parts.size(), PartCounts(map));
  const int64_t* next = all.const_data_ptr<int64_t>();
  for (int64_t rank = 0; rank < ranks; ++rank) {
    for (PartCounts& part : counts) {
      std::copy(next, next + experts, part.assignments_RE.begin() + rank * experts);
      next += experts;
      for (int64_t to = 0; to < ranks; ++to) part.tokens.at(rank, to) = *next++;
      std::copy(next, next + nodes, part.node_tokens_RN.begin() + rank * nodes);
      next += nodes;
    }
  }
  return counts;
}

void add_rows(const ExpertMap& map, const ExchangePart& part, const PartCounts& counts,
              ExchangeRows& rows) {
  const int64_t own = map.group->rank();
  const int64_t own_node = map.node_of[static_cast<size_t>(own)];
  const comm::RowsSent spread = part.route->spread_rows(), collect = part.route->collect_rows();
  for (size_t r = 0; r < spread.size(); ++r) {
    rows.spread_R[r] += spread[r];
    rows.collect_R[r] += collect[r];
    if (map.node_of[r] != own_node && spread[r] > 0) ++rows.inter_messages;
  }
  for (int64_t expert = 0; expert < map.num_experts; ++expert) {
    const int64_t count = counts.assignments(own, expert);
    rows.assignments += count;
    if (map.node_of[static_cast<size_t>(map.rank_of(expert))] != own_node) rows.flat_inter += count;
  }
}

// Different tokens that all parts together have for other nodes.
int64_t least_rows_between_nodes(const ExpertMap& map, const std::vector<PartAssignments>& parts) {
  const int64_t own_node = map.node_of[static_cast<size_t>(map.group->rank())];
  int64_t rows = 0;
  for (int64_t node = 0; node < map.num_nodes(); ++node) {
    if (node == own_node) continue;
    TokenCounter of_node(parts.front().num_tokens);
    for (const PartAssignments& part : parts) {
      for (size_t a = 0; a < part.token_A.size(); ++a) {
        const int64_t rank = map.rank_of(part.expert_A[a]);
        if (map.node_of[static_cast<size_t>(rank)] != node) continue;
        if (of_node.is_new(part.token_A[a], node)) ++rows;
      }
    }
  }
  return rows;
}

}  // namespace

int64_t ExpertMap::num_nodes() const {
  return *std::max_element(node_of.begin(), node_of.end()) + 1;
}

PartCounts::PartCounts(const ExpertMap& map)
    : assignments_RE(static_cast<size_t>(map.num_ranks() * map.num_experts)),
      tokens(map.num_ranks()),
      node_tokens_RN(static_cast<size_t>(map.num_ranks() * map.num_nodes())),
      num_experts(map.num_experts),
      num_nodes(map.num_nodes()) {}

std::span<const ExchangeEntry> exchange_entries() { return kExchanges; }

std::vector<std::string> exchange_names() {
  std::vector<std::string> names;
  for (const ExchangeEntry& entry : kExchanges) names.emplace_back(entry.name);
  return names;
}

bool is_possible(const ExchangeEntry& entry, const comm::NodeGroups* nodes) {
  if (!entry.needs_nodes) return true;
  return nodes != nullptr &&
         (entry.most_ranks_per_node == 0 || nodes->ranks_per_node <= entry.most_ranks_per_node);
}

const ExchangeEntry& find_exchange(std::string_view name) {
  for (const ExchangeEntry& entry : kExchanges) {
    if (entry.name == name) return entry;
  }
  std::string known = "auto";
  for (const ExchangeEntry& entry : kExchanges) known += format(", {}", entry.name);
  throw ConfigError("parallel.exchange.type = \"{}\" is not an exchange; known: {}", name, known);
}

std::shared_ptr<const ExchangePlan> plan_exchange(const ExchangeEntry& entry, const ExpertMap& map,
                                                  const Assignment& assignment, int64_t num_tokens,
                                                  int64_t num_parts) {
  auto plan = std::make_shared<ExchangePlan>();
  plan->split_by_experts = entry.parts_share_tokens && num_parts <= map.experts_per_rank();
  const std::vector<PartAssignments> parts =
      deal(map, assignment, num_tokens, num_parts, plan->split_by_experts);
  const std::vector<PartCounts> counts = exchange_counts(map, parts);
  plan->rows.spread_R.resize(static_cast<size_t>(map.num_ranks()));
  plan->rows.collect_R.resize(static_cast<size_t>(map.num_ranks()));
  for (size_t p = 0; p < parts.size(); ++p) {
    plan->parts.push_back(entry.make(map, parts[p], counts[p]));
    add_rows(map, plan->parts.back(), counts[p], plan->rows);
  }
  plan->rows.least_inter = least_rows_between_nodes(map, parts);
  return plan;
}

}  // namespace locus::moe
