#include "locus/moe/moe_layer.h"

#include <ATen/ATen.h>

#include <numeric>

#include "locus/base/error.h"
#include "locus/moe/router_math.h"

namespace locus::moe {

MoeLayer::MoeLayer(const MoeConfig& config, const RouterContext& context,
                   const OptionSet& router_options, ops::Activation activation, bool with_bias,
                   const comm::ParallelContext& parallel)
    : dispatcher_(parallel.ep == nullptr
                      ? make_local_dispatcher(config.num_experts)
                      : make_exchange_dispatcher(config.num_experts, parallel, context.layer)),
      world_(parallel.world),
      num_experts_(config.num_experts),
      ep_rank_(parallel.ep_rank),
      ep_size_(parallel.ep_size),
      ep_node_of_(parallel.ep_node_of),
      expert_of_slot_(static_cast<size_t>(config.num_experts)) {
  std::iota(expert_of_slot_.begin(), expert_of_slot_.end(), int64_t{0});
  router_ = register_module("router", make_router(config.router, context, router_options));
  experts_ = register_module(
      "experts",
      std::make_shared<Experts>(config.num_experts / parallel.ep_size, context.hidden_size,
                                config.intermediate_size, activation, with_bias, config.experts));
  if (config.shared_expert_intermediate_size > 0) {
    shared_expert_ = register_module(
        "shared_expert",
        std::make_shared<nn::FeedForward>(
            context.hidden_size, config.shared_expert_intermediate_size, activation, with_bias));
    shared_expert_of_unclaimed_ = config.shared_expert_scope == "unclaimed";
    if (config.shared_expert_gate) {
      shared_expert_gate_ = register_module(
          "shared_expert_gate", std::make_shared<nn::Linear>(context.hidden_size, 1, false));
    }
  }
}

void MoeLayer::place_experts(const std::vector<int64_t>& expert_of_slot) {
  LOCUS_CHECK(std::ssize(expert_of_slot) == num_experts_, "places of {} experts, not {}",
              expert_of_slot.size(), num_experts_);
  if (ep_size_ == 1) return;  // all are here, in order
  const size_t per_rank = expert_of_slot.size() / static_cast<size_t>(ep_size_);
  std::vector<int64_t> slot_E(expert_of_slot.size(), -1), node_E(expert_of_slot.size());
  for (size_t slot = 0; slot < expert_of_slot.size(); ++slot) {
    const auto expert = static_cast<size_t>(expert_of_slot[slot]);
    LOCUS_CHECK(expert < slot_E.size() && slot_E[expert] < 0, "expert {} has no place of its own",
                expert);
    slot_E[expert] = static_cast<int64_t>(slot);
    if (!ep_node_of_.empty()) node_E[expert] = ep_node_of_[slot / per_rank];
  }
  expert_of_slot_ = expert_of_slot;
  dispatcher_->place_experts(slot_E);
  if (!ep_node_of_.empty()) router_->set_expert_nodes(node_E);
}

std::vector<int64_t> MoeLayer::held_experts() const {
  const auto per_rank = num_experts_ / ep_size_;
  const auto first = expert_of_slot_.begin() + ep_rank_ * per_rank;
  return {first, first + per_rank};
}

MoeOutput MoeLayer::forward(const at::Tensor& x_TD, const TokenContext& tokens,
                            const Assignment* replay) {
  Routing routing = router_->route(x_TD, tokens, replay);
  const std::unique_ptr<Dispatched> dispatched = dispatcher_->dispatch(x_TD, routing);
  const at::Tensor shared_TD = shared_output(x_TD, routing.assignment);  // while rows travel
  at::Tensor y_TD = dispatched->combine(*experts_);
  if (shared_TD.defined()) y_TD = y_TD + shared_TD;
  if (compares_rules_ && !is_training()) compare_with_causal_rule(x_TD, tokens, routing.assignment);
  if (stats_ && replay == nullptr) {
    add_routing(*stats_, routing, tokens, num_experts_, x_TD.size(0), num_domains_);
    if (with_clusters_) add_clusters(*stats_, routing, x_TD, num_experts_);
  }
  const at::Tensor aux_loss = routing.aux_loss.defined()
                                  ? routing.aux_loss
                                  : at::zeros({}, x_TD.options().dtype(at::kFloat));
  return {y_TD, aux_loss, routing.assignment};
}

at::Tensor MoeLayer::shared_output(const at::Tensor& x_TD, const Assignment& assignment) const {
  if (!shared_expert_) return {};
  const auto compute = [this](const at::Tensor& x) {
    const at::Tensor y = shared_expert_->forward(x);
    return shared_expert_gate_ ? y * shared_expert_gate_->forward(x).sigmoid() : y;
  };
  if (!shared_expert_of_unclaimed_) return compute(x_TD);
  const at::Tensor unclaimed_U = unclaimed_tokens(assignment, x_TD.size(0));
  const at::Tensor y_UD = compute(x_TD.index_select(0, unclaimed_U));
  return at::zeros({x_TD.size(0), y_UD.size(1)}, y_UD.options()).index_copy(0, unclaimed_U, y_UD);
}

void MoeLayer::evaluate_with_training_rule(bool value) {
  router_->set_evaluate_with_training_rule(value);
  compares_rules_ = value;
}

void MoeLayer::compare_with_causal_rule(const at::Tensor& x_TD, const TokenContext& tokens,
                                        const Assignment& by_training_rule) {
  const at::NoGradGuard no_grad;
  router_->set_evaluate_with_training_rule(false);
  const Assignment by_causal_rule = router_->route(x_TD, tokens).assignment;
  router_->set_evaluate_with_training_rule(true);
  agreement_.tokens += x_TD.size(0);
  agreement_.equal +=
      tokens_with_equal_experts(by_training_rule, by_causal_rule, x_TD.size(0), num_experts_);
}

void MoeLayer::start_stats(int64_t num_domains, bool with_clusters) {
  stats_.emplace();
  router_->is_observed = true;
  num_domains_ = num_domains;
  with_clusters_ = with_clusters;
}

RouterStats MoeLayer::take_stats() {
  RouterStats stats = stats_.value_or(RouterStats{});
  stats_.reset();
  router_->is_observed = false;
  return sum_over(world_.get(), stats);
}

void MoeLayer::start_exchange_stats() {
  exchange_stats_ = std::make_shared<ExchangeStats>();
  dispatcher_->count_in(exchange_stats_);
}

std::optional<SummedExchange> MoeLayer::take_exchange_stats() {
  dispatcher_->count_in(nullptr);
  const std::shared_ptr<ExchangeStats> stats = std::exchange(exchange_stats_, nullptr);
  if (stats == nullptr || stats->sent_R.empty()) return std::nullopt;
  return sum_over(world_.get(), *stats, ep_rank_);
}

}  // namespace locus::moe
