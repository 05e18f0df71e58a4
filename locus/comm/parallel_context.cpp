#include "locus/comm/parallel_context.h"

#include "locus/base/error.h"
#include "locus/comm/collectives.h"

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

ParallelContext alone() { return {}; }

ParallelContext make_parallel_context(const ParallelConfig& config,
                                      std::shared_ptr<Transport> transport,
                                      const std::string& host) {
  ParallelContext context;
  context.rank = transport->rank();
  context.world_size = transport->world_size();
  context.transport = std::move(transport);
  const Layout layout{context.world_size, config.expert_model_parallel_size,
                      config.ep_placement == "across_nodes"};
  LOCUS_CHECK(context.world_size % layout.expert_parallel_size == 0, "{} ranks, experts over {}",
              context.world_size, layout.expert_parallel_size);
  context.ep_size = layout.expert_parallel_size;
  context.ep_rank = layout.ep_rank(context.rank);
  const auto group = [&](const std::string& name, const std::vector<int64_t>& ranks) {
    return ranks.size() > 1 ? context.transport->make_group(name, ranks) : nullptr;
  };
  std::vector<int64_t> all;
  for (int64_t rank = 0; rank < context.world_size; ++rank) all.push_back(rank);
  context.world = group("world", all);
  context.topology = cluster::Topology(gather_texts(context.world.get(), host));
  context.checkpoint = group("checkpoint", all);
  context.ep = group("ep", layout.ep_ranks(context.rank));
  context.edp = group("edp", layout.edp_ranks(context.rank));
  return context;
}

}  // namespace locus::comm
