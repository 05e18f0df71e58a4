// The mixture-of-experts layer: route, dispatch, experts, combine, plus the shared expert.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <memory>
#include <optional>
#include <utility>

#include "locus/comm/parallel_context.h"
#include "locus/moe/config.h"
#include "locus/moe/dispatcher.h"
#include "locus/moe/experts.h"
#include "locus/moe/router.h"
#include "locus/moe/router_stats.h"
#include "locus/nn/feed_forward.h"
#include "locus/nn/linear.h"

namespace locus::moe {

// Of a router whose training decisions look at later tokens, and so evaluates by another rule.
struct RuleAgreement {
  int64_t tokens = 0;
  int64_t equal = 0;  // tokens that both rules give the same experts
};

struct MoeOutput {
  at::Tensor y_TD;
  at::Tensor aux_loss;    // float32 scalar, zero where the router has none
  Assignment assignment;  // for the replay of this layer
};

class MoeLayer : public torch::nn::Module {
 public:
  // Of the experts, this rank holds its part by `parallel`.
  MoeLayer(const MoeConfig& config, const RouterContext& context, const OptionSet& router_options,
           ops::Activation activation, bool with_bias,
           const comm::ParallelContext& parallel = comm::alone());

  MoeOutput forward(const at::Tensor& x_TD, const TokenContext& tokens,
                    const Assignment* replay = nullptr);

  Router& router() { return *router_; }

  // The experts of all ranks of the group by their places, in order of ranks. At first in order.
  const std::vector<int64_t>& expert_of_slot() const { return expert_of_slot_; }
  // From now on they are there. The caller has moved their weights (train/expert_migration.h).
  // Where one rank has all, they stay in order.
  void place_experts(const std::vector<int64_t>& expert_of_slot);
  // Of these, the ones on this rank, in the order of the weights.
  std::vector<int64_t> held_experts() const;

  // Statistics of the forward passes since start_stats(), of all ranks together; replays do not
  // count. All ranks call both. with_clusters: also what the Calinski-Harabasz index needs, a sum
  // of tokens for each expert.
  void start_stats(int64_t num_domains, bool with_clusters = false);
  RouterStats take_stats();
  // Those of this rank alone, before take_stats().
  const RouterStats& own_stats() const { return stats_.value(); }

  // Evaluates with the router's training rule although it leaks, and compares it with the causal
  // one on the same tokens. take_agreement(): of this rank's tokens since the last call.
  void evaluate_with_training_rule(bool value);
  RuleAgreement take_agreement() { return std::exchange(agreement_, {}); }

  // What this layer's exchanges of rows cost since start_exchange_stats(), of all ranks; none where
  // all experts are here. All ranks call both, the second one after the backward pass.
  void start_exchange_stats();
  std::optional<SummedExchange> take_exchange_stats();

 private:
  // Undefined: none.
  at::Tensor shared_output(const at::Tensor& x_TD, const Assignment& assignment) const;
  void compare_with_causal_rule(const at::Tensor& x_TD, const TokenContext& tokens,
                                const Assignment& by_training_rule);

  std::shared_ptr<Router> router_;
  std::shared_ptr<Experts> experts_;
  std::shared_ptr<nn::FeedForward> shared_expert_;  // null: none
  std::shared_ptr<nn::Linear> shared_expert_gate_;  // null: none
  std::unique_ptr<Dispatcher> dispatcher_;
  std::shared_ptr<comm::ProcessGroup> world_;  // null: alone
  int64_t num_experts_;
  int64_t ep_rank_, ep_size_;
  std::vector<int64_t> ep_node_of_;  // empty: one node
  std::vector<int64_t> expert_of_slot_;
  std::optional<RouterStats> stats_;
  std::shared_ptr<ExchangeStats> exchange_stats_;
  RuleAgreement agreement_;
  int64_t num_domains_ = 0;
  bool shared_expert_of_unclaimed_ = false;
  bool compares_rules_ = false;
  bool with_clusters_ = false;
};

}  // namespace locus::moe
