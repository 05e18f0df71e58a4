#include "locus/comm/parallel_context.h"

#include "locus/base/error.h"
#include "locus/comm/collectives.h"
#include "locus/comm/watchdog.h"

namespace locus::comm {

int64_t Layout::ep_rank(int64_t rank) const {
  return across_nodes ? rank / expert_data_parallel_size() : rank % expert_parallel_size;
}

std::vector<int64_t> Layout::ep_ranks(int64_t rank) const {
  const int64_t stride = across_nodes ? expert_data_parallel_size() : 1;
  const int64_t first = rank - ep_rank(rank) * stride;
  std::vector<int64_t> ranks;
  for (int64_t i = 0; i < expert_parallel_size; ++i) ranks.push_back(first + i * stride);
  return ranks;
}

std::vector<int64_t> Layout::edp_ranks(int64_t rank) const {
  const int64_t stride = across_nodes ? 1 : expert_parallel_size;
  const int64_t first = across_nodes ? ep_rank(rank) * expert_data_parallel_size() : ep_rank(rank);
  std::vector<int64_t> ranks;
  for (int64_t i = 0; i < expert_data_parallel_size(); ++i) ranks.push_back(first + i * stride);
  return ranks;
}

namespace {

// What ranks that count as one node have in common.
std::string node_name(const ParallelConfig& config, int64_t rank, const std::string& host) {
  return config.ranks_per_node == 0 ? host : format("node{}", rank / config.ranks_per_node);
}

// Of the ep group's ranks, by their place in it. All ranks of the world call it together.
std::shared_ptr<const NodeGroups> make_node_groups(const cluster::Topology& nodes,
                                                   const std::vector<int64_t>& ep_ranks,
                                                   int64_t ep_rank, Transport& transport) {
  auto groups = std::make_shared<NodeGroups>();
  groups->num_nodes = nodes.num_nodes();
  groups->ranks_per_node = nodes.world_size() / nodes.num_nodes();
  groups->own_node = nodes.node_of(ep_rank);
  groups->own_place = nodes.local_index(ep_rank);
  for (int64_t node = 0; node < groups->num_nodes; ++node) {
    const std::vector<int64_t>& ranks = nodes.ranks_of(node);
    groups->rank_of.insert(groups->rank_of.end(), ranks.begin(), ranks.end());
  }
  std::vector<int64_t> neighbours, counterparts;
  for (int64_t place = 0; place < groups->ranks_per_node; ++place) {
    neighbours.push_back(ep_ranks[static_cast<size_t>(groups->rank_at(groups->own_node, place))]);
  }
  for (int64_t node = 0; node < groups->num_nodes; ++node) {
    counterparts.push_back(ep_ranks[static_cast<size_t>(groups->rank_at(node, groups->own_place))]);
  }
  if (neighbours.size() > 1) groups->node = transport.make_group("ep_node", neighbours);
  groups->rail = transport.make_group("ep_rail", counterparts);
  groups->courier = std::make_shared<Courier>();
  return groups;
}

// Whether a rank's ep group lies evenly on several nodes may differ from group to group: groups of
// nodes are made only where it does for all.
void set_ep_nodes(ParallelContext& context, const Layout& layout) {
  bool all_even = context.ep_size > 1;
  const auto nodes_of = [&](const std::vector<int64_t>& ranks) {
    std::vector<std::string> names;
    for (const int64_t rank : ranks) {
      names.push_back(std::to_string(context.topology.node_of(rank)));
    }
    return cluster::Topology(names);
  };
  for (int64_t rank = 0; rank < context.world_size && all_even; ++rank) {
    const cluster::Topology nodes = nodes_of(layout.ep_ranks(rank));
    all_even = nodes.num_nodes() > 1 && nodes.is_even();
  }
  const std::vector<int64_t> own = layout.ep_ranks(context.rank);
  const cluster::Topology nodes = nodes_of(own);
  for (int64_t i = 0; i < context.ep_size; ++i) context.ep_node_of.push_back(nodes.node_of(i));
  if (all_even) {
    context.ep_nodes = make_node_groups(nodes, own, context.ep_rank, *context.transport);
  }
}

}  // namespace

ParallelContext alone() { return {}; }

ParallelContext make_parallel_context(const ParallelConfig& config,
                                      std::shared_ptr<Transport> transport, const std::string& host,
                                      std::shared_ptr<Watchdog> watchdog,
                                      const std::vector<Agreement>& in_common) {
  ParallelContext context;
  if (watchdog != nullptr) context.activity = watchdog->activity();
  context.watchdog = std::move(watchdog);
  context.rank = transport->rank();
  context.world_size = transport->world_size();
  context.transport = std::move(transport);
  const Layout layout{context.world_size, config.expert_model_parallel_size,
                      config.ep_placement == "across_nodes"};
  LOCUS_CHECK(context.world_size % layout.expert_parallel_size == 0, "{} ranks, experts over {}",
              context.world_size, layout.expert_parallel_size);
  context.layout = layout;
  context.ep_size = layout.expert_parallel_size;
  context.ep_rank = layout.ep_rank(context.rank);
  context.use_distributed_optimizer = config.use_distributed_optimizer;
  const auto group = [&](const std::string& name, const std::vector<int64_t>& ranks) {
    return ranks.size() > 1 ? context.transport->make_group(name, ranks) : nullptr;
  };
  std::vector<int64_t> all;
  for (int64_t rank = 0; rank < context.world_size; ++rank) all.push_back(rank);
  context.world = group("world", all);
  check_agreement(context.world.get(), host, in_common);
  context.topology =
      cluster::Topology(gather_texts(context.world.get(), node_name(config, context.rank, host)));
  context.checkpoint = group("checkpoint", all);
  context.ep = group("ep", layout.ep_ranks(context.rank));
  context.edp = group("edp", layout.edp_ranks(context.rank));
  context.exchange = config.exchange;
  set_ep_nodes(context, layout);
  return context;
}

}  // namespace locus::comm
