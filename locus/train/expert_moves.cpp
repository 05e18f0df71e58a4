#include "locus/train/expert_moves.h"

#include <ATen/ATen.h>

#include <utility>

#include "locus/base/error.h"
#include "locus/comm/collectives.h"
#include "locus/train/expert_migration.h"

namespace locus::train {
namespace {

// Rows to the experts and back, forward and backward; with recomputation the forward ways twice.
double ways(const model::TransformerConfig& config) { return config.recompute ? 6 : 4; }

double row_bytes(const model::TransformerConfig& config) {
  const std::string& wire = config.parallel.exchange.wire_dtype;
  const bool is_narrow =
      wire == "bfloat16" || (wire == "auto" && config.compute_type == at::kBFloat16);
  return static_cast<double>(config.model.hidden_size) * (is_narrow ? 2 : 4);
}

}  // namespace

placement::Neighbourhood neighbourhood(const comm::ParallelContext& parallel) {
  placement::Neighbourhood out;
  for (int64_t rank = 0; rank < parallel.world_size; ++rank) {
    out.node_of_rank.push_back(parallel.topology.node_of(rank));
    if (parallel.layout.ep_rank(rank) == 0) {
      out.ranks_of_group.push_back(parallel.layout.ep_ranks(rank));
    }
  }
  return out;
}

ExpertMoves::ExpertMoves(model::Transformer& transformer, Optimizer& optimizer, int64_t interval,
                         int64_t count_interval)
    : transformer_(transformer),
      optimizer_(optimizer),
      neighbourhood_(neighbourhood(transformer.config().parallel)),
      interval_(interval),
      count_interval_(count_interval) {}

std::string ExpertMoves::why_useless(const comm::ParallelContext& parallel) {
  for (const auto& group : neighbourhood(parallel).ranks_of_group) {
    for (const int64_t rank : group) {
      if (parallel.topology.node_of(rank) != parallel.topology.node_of(group.front())) return "";
    }
  }
  return "every group of ranks that shares experts lies on one node";
}

void ExpertMoves::restore(State state) {
  state_ = std::move(state);
  for (auto& [layer, of] : state_) {
    if (of.tokens_RE.size() != neighbourhood_.node_of_rank.size()) of.tokens_RE.clear();
  }
}

std::vector<MetricLine> ExpertMoves::update(
    int64_t step, const std::map<int64_t, std::vector<int64_t>>& tokens_E) {
  std::vector<at::Tensor> own;
  for (const auto& [layer, tokens] : tokens_E) own.push_back(at::tensor(tokens, at::kDouble));
  if (own.empty()) return {};
  const at::Tensor all_RME =
      comm::gather_rows(transformer_.config().parallel.world.get(), at::stack(own).unsqueeze(0))
          .all;
  int64_t m = 0;
  for (const auto& [layer, tokens] : tokens_E) {
    auto& sum_RE = state_[layer].tokens_RE;
    const at::Tensor tokens_RE = all_RME.select(1, m++).contiguous();
    sum_RE.resize(static_cast<size_t>(tokens_RE.size(0)), std::vector<double>(tokens.size()));
    const double* value = tokens_RE.const_data_ptr<double>();
    for (auto& sum_E : sum_RE) {
      for (double& sum : sum_E) sum += *value++;
    }
  }
  std::vector<MetricLine> lines;
  if (step % interval_ != 0) return lines;
  for (auto& [layer, of] : state_) lines.push_back(decide(step, layer, of));
  return lines;
}

MetricLine ExpertMoves::decide(int64_t step, int64_t layer, Layer& of) {
  of.expert_of_slot = transformer_.moe_layer(layer).expert_of_slot();
  auto tokens_RE = std::exchange(of.tokens_RE, {});
  for (auto& tokens_E : tokens_RE) {
    for (double& tokens : tokens_E) tokens *= static_cast<double>(count_interval_);
  }
  // The coming interval as the last one.
  const double token_bytes = ways(transformer_.config()) * row_bytes(transformer_.config());
  const double move_bytes = expert_bytes(optimizer_, layer);
  const placement::ExpertPlan plan = placement::plan_experts(
      neighbourhood_, tokens_RE, of.expert_of_slot, move_bytes / token_bytes);
  if (plan.moved > 0) {
    migrate_experts(transformer_, optimizer_, layer, plan.expert_of_slot);
    of.expert_of_slot = plan.expert_of_slot;
  }
  // What it would be if nothing had to travel: how much is declined.
  const placement::ExpertPlan free =
      placement::plan_experts(neighbourhood_, tokens_RE, of.expert_of_slot, 0);
  MetricLine line("migration", step);
  line.set("layer", layer)
      .set("moved", plan.moved)
      .set("declined", free.moved)
      .set("saves_bytes", (plan.crossed - plan.crosses) * token_bytes)
      .set("costs_bytes", static_cast<double>(plan.moved_between_nodes) * move_bytes)
      .set("declined_bytes", (free.crossed - free.crosses) * token_bytes)
      .set("crossed_bytes", plan.crossed * token_bytes)
      .set("expert_of_slot", of.expert_of_slot);
  return line;
}

void restore_places(model::Transformer& transformer, const ExpertMoves::State& state) {
  for (const auto& [layer, of] : state) {
    if (!of.expert_of_slot.empty()) transformer.moe_layer(layer).place_experts(of.expert_of_slot);
  }
}

}  // namespace locus::train
