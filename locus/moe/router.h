// Routers: which experts compute which tokens, and with what weight.
//
// T tokens, D hidden size, E experts, N assignments (T*K, or E*C for expert choice).
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "locus/base/options.h"
#include "locus/moe/config.h"
#include "locus/moe/token_pool.h"

namespace locus::moe {

struct ExchangePlan;  // moe/exchange.h

// Which token goes to which expert; both int64 [N], in any order. A dropped assignment has no
// entry.
struct Assignment {
  at::Tensor token_N;
  at::Tensor expert_N;
  // int64 [T, K]: the experts that each token asked for before anything was dropped, best first.
  // Normalised weights and the balance loss depend on them, so a replay must bring them back.
  // Undefined where the tokens do not choose.
  at::Tensor requested_TK;
  // Float32 [E], set by add_losses(): the assignments requested of each expert, over all ranks,
  // that the balance loss compares with. A replay brings them back instead of asking the ranks
  // again.
  at::Tensor count_E;
  // Set by the dispatcher where experts are on several ranks: a replay takes it over.
  std::shared_ptr<const ExchangePlan> plan = nullptr;
};

// The one form that every router can produce and every dispatcher can consume.
struct Routing {
  Assignment assignment;
  at::Tensor weight_N;  // float32, combine weights, differentiable
  at::Tensor aux_loss;  // float32 scalar, coefficients applied, differentiable; undefined: none
  // For telemetry, detached; undefined where a router has no such thing.
  at::Tensor probability_TE;  // float32, the router's distribution
  at::Tensor balance_loss;    // float32 scalar, coefficient applied
  at::Tensor z_loss;          // float32 scalar, coefficient applied
  at::Tensor locality_loss;   // float32 scalar, coefficient applied
  // Float64 scalars: squared norms of these losses' gradients for the logits of this rank's tokens;
  // where Router::is_observed alone.
  at::Tensor balance_gradient, z_gradient, locality_gradient;
  // Float32 [E], of the tokens whose first choice an expert is: sum of the cosines of their angles
  // to its row of the gate.
  at::Tensor cosine_sum_E;
  int64_t capacity = 0;       // most assignments of an expert, over all ranks; 0: no limit
  int64_t num_requested = 0;  // assignments before the capacity limit
};

// What a router may know of the tokens beside their hidden states. Tensors are int64 [T], on the
// device of the hidden states; the T tokens are `num_sequences` rows of equal length, row-major.
struct TokenContext {
  at::Tensor id_T;            // vocabulary ids: hash routing
  at::Tensor domain_T;        // domain of the document, -1 unknown: telemetry
  at::Tensor group_T;         // row of RouterContext::allowed_GE; undefined without groups
  at::Tensor global_index_T;  // place in the global batch: every random draw is keyed by
                              // (seed, step, layer, this), never by rank or by order
  int64_t num_sequences = 1;
  int64_t step = 0;
  // True where the tokens of all ranks, in order of ranks, are not in the order of the global
  // batch.
  bool is_placed = false;
};

// What a router is built for.
struct RouterContext {
  int64_t layer = 0;
  int64_t hidden_size = 0;
  int64_t num_experts = 0;
  // Where experts were cut: how many there were, and which of them are left, rising. Empty: all.
  int64_t num_experts_before = 0;
  std::vector<int64_t> kept_experts = {};
  int64_t vocab_size = 0;
  uint64_t seed = 0;
  double init_std = 0.02;
  std::vector<int64_t> token_frequency;  // [vocab_size] of the training data; empty: unknown
  TokenPool pool;                        // whose tokens are routed together with this rank's
  // Node of each expert of this rank's expert-parallel group, and of this rank. Empty: one node.
  std::vector<int64_t> node_of_expert;
  int64_t node = 0;
  // bool [G, E]: the experts that each domain's tokens may have (moe/domain_groups.h). Undefined:
  // all.
  at::Tensor allowed_GE;
  // Training step from which the layer has these experts: schedules count from there.
  int64_t first_step = 0;
};

class Router : public torch::nn::Module {
 public:
  explicit Router(const RouterConfig& config, const RouterContext& context)
      : config_(config), context_(context) {}

  // Routes x_TD (any floating type; routers compute in float32). With `replay`, the recomputation
  // of a layer: exactly those assignments come back in that order, with weights and losses as
  // differentiable functions of x_TD and the parameters; no running statistics change.
  virtual Routing route(const at::Tensor& x_TD, const TokenContext& tokens,
                        const Assignment* replay = nullptr) = 0;

  // Before each training step: temperature, stage switches.
  virtual void on_step(int64_t /*step*/, int64_t /*total_steps*/) {}

  // After each training step, with the tokens per expert of the whole global batch, all ranks
  // (float32 [E], before any capacity limit): loss-free balancing moves its bias here.
  virtual void on_step_end(const at::Tensor& /*requested_E*/) {}

  // The experts have moved: RouterContext::node_of_expert from now on.
  virtual void set_expert_nodes(const std::vector<int64_t>& /*node_of_expert*/) {}

  // True when training decisions look at later tokens of the sequence, so that evaluation and
  // generation use another (causal) rule.
  virtual bool is_causal_in_training() const { return true; }

  // Evaluates with the training rule although it leaks; only where is_causal_in_training() is
  // false.
  virtual void set_evaluate_with_training_rule(bool /*value*/) {}

  // Becomes the router of a layer that experts were cut from: takes over what `whole`, the one of
  // all experts, has for those in RouterContext::kept_experts. Choices are then those of `whole`
  // among these experts.
  virtual void cut_from(const Router& whole);

  const RouterConfig& config() const { return config_; }
  const RouterContext& context() const { return context_; }

  // Whether statistics of the coming forward passes are taken: what costs time is only then in
  // their Routing.
  bool is_observed = false;

  // Requested tokens per expert of this rank's micro-batches of the step so far, float32 [E]:
  // routers add to it in training (not in a replay), the trainer hands the sum over the ranks to
  // on_step_end() and resets it.
  at::Tensor requested_E;

 protected:
  // The rows of `whole`, which may have been cut before, that are this router's; all where none was
  // cut from it.
  std::vector<int64_t> kept_rows(const Router& whole) const;

  const RouterConfig config_;
  const RouterContext context_;
};

// What a router's parameters are made for, and one of them as Router::named_parameters() has it. A
// matrix takes part in a product with every token; a table is looked up.
struct RouterSizes {
  int64_t num_experts = 0, hidden_size = 0, vocab_size = 0;
};
struct RouterParameter {
  std::string name;
  std::vector<int64_t> shape;
  bool is_table = false;
};

using MakeRouter = std::shared_ptr<Router>(const RouterConfig&, const RouterContext&,
                                           const OptionSet& options);

struct RouterEntry {
  std::string_view name;
  std::string_view summary;  // one line: what it does and its source
  MakeRouter* make;
  OptionSet (*options)();  // the router's own settings, [moe.<name>]
  // Problems of the settings for this router, one text each: what --dry-run prints. Builds no
  // tensors.
  std::vector<std::string> (*validate)(const RouterConfig&, int64_t num_experts,
                                       const OptionSet& options);
  double (*experts_per_token)(const MoeConfig&);  // asked for on average: size and FLOPs
  std::vector<RouterParameter> (*parameters)(const RouterSizes&);
  bool needs_token_frequency;  // RouterContext::token_frequency
  bool heeds_domain_groups;    // RouterContext::allowed_GE
};

std::span<const RouterEntry> router_entries();
std::vector<std::string> router_names();

// ConfigError that lists the known names when there is no such router.
const RouterEntry& find_router(std::string_view name);
std::shared_ptr<Router> make_router(const RouterConfig& config, const RouterContext& context,
                                    const OptionSet& options);

}  // namespace locus::moe
