#include "locus/app/exchange_settings.h"

#include "locus/base/error.h"
#include "locus/base/file.h"
#include "locus/model/layer_config.h"
#include "locus/model/size.h"
#include "locus/moe/domain_groups.h"
#include "locus/moe/exchange.h"
#include "locus/moe/exchange_choice.h"
#include "locus/moe/router.h"

namespace locus::app {
namespace {

void read_links(const std::string& path, cluster::Topology& topology) {
  const cluster::Topology measured = cluster::read_topology(path);
  bool same = measured.world_size() == topology.world_size() &&
              measured.num_nodes() == topology.num_nodes();
  for (int64_t rank = 0; same && rank < topology.world_size(); ++rank) {
    same = measured.node_of(rank) == topology.node_of(rank);
  }
  if (!same) {
    throw DataError(
        "{}: was measured with {} ranks on {} nodes, this run has {} on {}, or lays them out "
        "differently; measure again with `locus topology --output` under the same launcher",
        path, measured.world_size(), measured.num_nodes(), topology.world_size(),
        topology.num_nodes());
  }
  topology.inter_node = measured.inter_node;
  topology.intra_node = measured.intra_node;
}

// Where each domain's experts are on one node and sequences are placed, most rows stay there: what
// leaves is what equal numbers of sequences push out. Nine tenths stayed in docs/locality.md; the
// data would tell, but are not open yet.
double near_share(const RunConfig& config, const comm::ParallelContext& parallel) {
  constexpr double kPlacedNear = 0.9;
  const int64_t nodes = parallel.ep_nodes ? parallel.ep_nodes->num_nodes : 1;
  const moe::MoeConfig& moe = config.moe;
  if (nodes == 1 || !config.parallel.place_sequences || moe.num_experts % nodes != 0) return 0;
  const int64_t experts_of_node = moe.num_experts / nodes;
  if (moe.domain_groups.empty())
    return moe.num_domain_groups % nodes == 0 && moe.num_domain_groups > 0 ? kPlacedNear : 0;
  for (const moe::DomainGroup& group : moe::parse_domain_groups(moe.domain_groups)) {
    for (const int64_t expert : group.experts) {
      if (expert / experts_of_node != group.experts.front() / experts_of_node) return 0;
    }
  }
  return kPlacedNear;
}

// A rate of 0 takes no time.
cluster::Link emulated_link(double latency_us, double gbit_per_s) {
  constexpr double kNoTime = 1e18;
  return {latency_us * 1e-6, gbit_per_s == 0 ? kNoTime : gbit_per_s * 1e9 / 8, {}};
}

}  // namespace

void keep_exchange(const RunConfig& config, comm::ParallelContext& parallel) {
  const fs::path file = fs::path(config.train.output_dir) / "config.toml";
  if (!fs::exists(file)) return;
  const RunConfig past = parse_run_config(file.string(), read_file(file), {});
  const comm::ParallelConfig& before = past.parallel;
  if (before.exchange.type == "auto" || before.ranks_per_node != config.parallel.ranks_per_node ||
      before.expert_model_parallel_size != config.parallel.expert_model_parallel_size ||
      !moe::is_possible(moe::find_exchange(before.exchange.type), parallel.ep_nodes.get())) {
    return;
  }
  if (parallel.exchange.type == "auto") parallel.exchange.type = before.exchange.type;
  if (parallel.exchange.chunks == 0) parallel.exchange.chunks = before.exchange.chunks;
}

std::string settle_exchange(const RunConfig& config, double flops_per_s,
                            comm::ParallelContext& parallel) {
  if (!config.comm.topology.empty()) {
    read_links(config.comm.topology, parallel.topology);
  } else if (config.comm.emulate.nodes > 0) {
    const comm::EmulateConfig& links = config.comm.emulate;
    parallel.topology.inter_node = emulated_link(links.latency_us, links.gbit_per_s);
    parallel.topology.intra_node = emulated_link(links.intra_latency_us, links.intra_gbit_per_s);
  }
  if (parallel.ep == nullptr) return "none: all experts are on every rank";
  const auto num_tokens =
      static_cast<double>(config.train.micro_batch_size * config.data.sequence_length);
  const bool half =
      config.parallel.exchange.wire_dtype == "bfloat16" ||
      (config.parallel.exchange.wire_dtype == "auto" && config.train.dtype == "bfloat16");
  const model::ParameterCount count = model::count_parameters(config.model, config.moe);
  double layers = 0;
  for (int64_t i = 0; i < config.model.num_hidden_layers; ++i) {
    if (model::layer_config(config.model, config.moe, i).has_experts()) ++layers;
  }
  if (layers == 0) return "none: no layer has experts";
  const moe::ExchangeLoad load{
      .num_experts = config.moe.num_experts,
      .top_k = moe::find_router(config.moe.router.type).experts_per_token(config.moe),
      .num_tokens = num_tokens,
      .row_bytes = static_cast<double>(config.model.hidden_size) * (half ? 2 : 4),
      .expert_flops = 2 * static_cast<double>(count.active_experts) / layers * num_tokens,
      .flops_per_s = flops_per_s,
      .near_share = near_share(config, parallel)};
  // Exchanges by nodes run collectives on two threads, which NCCL wants in one order on all ranks.
  if (config.train.device != "cpu" && parallel.exchange.type == "auto") {
    parallel.exchange.type = "flat";
  }
  const moe::ExchangeChoice choice = moe::choose_exchange(parallel, load);
  parallel.exchange.type = choice.type;
  parallel.exchange.chunks = choice.chunks;
  return choice.reason;
}

}  // namespace locus::app
