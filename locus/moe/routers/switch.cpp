// Switch Transformer: one expert per token (Fedus, Zoph, Shazeer, 2021, arXiv 2101.03961).
//
// e = argmax p, output p_e * E_e(x). In training the router's input is multiplied by uniform
// (1 - jitter, 1 + jitter); the experts see it unchanged. Balance loss on the requested experts,
// before drops.
//
// Where we differ from Mesh TensorFlow: capacity is ceil(factor * T / E) over the whole micro-batch
// instead of groups of 1,024 tokens with a minimum of 4; the drop is by lowest probability unless
// drop_policy = "position"; capacity_factor = 0 means dropless; evaluation is always dropless,
// because a limit there would make a token's output depend on its neighbours in the batch.
//
// T tokens, D hidden size, E experts, N assignments.
#include <ATen/ATen.h>

#include "locus/base/error.h"
#include "locus/moe/balance_loss.h"
#include "locus/moe/router.h"
#include "locus/moe/router_math.h"
#include "locus/ops/keyed_random.h"

namespace locus::moe {
namespace {

struct SwitchOptions {
  double jitter = 0.01;

  template <class V>
  void visit_fields(V& v) {
    v("jitter", jitter,
      "the gate's input times uniform(1 - jitter, 1 + jitter) in training; 0: off");
  }
};

class SwitchRouter final : public Router {
 public:
  SwitchRouter(const RouterConfig& config, const RouterContext& context,
               const SwitchOptions& options)
      : Router(config, context), options_(options) {
    weight_ED_ = register_parameter("weight", init_gate_weight(context));
  }

  Routing route(const at::Tensor& x_TD, const TokenContext& tokens,
                const Assignment* replay) override {
    const at::Tensor logits_TE = gate_logits(jittered(x_TD, tokens), weight_ED_);
    const at::Tensor probability_TE = at::softmax(logits_TE, 1);

    Routing routing;
    routing.assignment = replay ? *replay : choose(probability_TE, tokens);
    const at::Tensor& requested_T1 = routing.assignment.requested_TK;
    routing.num_requested = requested_T1.numel();
    routing.weight_N = gather_scores(probability_TE, routing.assignment);
    routing.probability_TE = probability_TE.detach().to(at::kFloat);
    if (!is_training()) return routing;
    if (!replay) add_requested(requested_E, requested_T1, context_.num_experts);
    add_losses(config_,
               {logits_TE, probability_TE, requested_T1, requested_E, tokens.num_sequences,
                context_.pool, is_observed && !replay},
               routing);
    return routing;
  }

  bool is_causal_in_training() const override { return !drops_look_ahead(config_); }
  void set_evaluate_with_training_rule(bool value) override { limit_in_evaluation_ = value; }

 private:
  // Keyed draws: a replay sees the same noise.
  at::Tensor jittered(const at::Tensor& x_TD, const TokenContext& tokens) const {
    if (!is_training() || options_.jitter == 0) return x_TD;
    const uint64_t key = draw_key(context_, tokens, "switch.jitter");
    const at::Tensor draw_TD = ops::keyed_uniform(key, tokens.global_index_T, x_TD.size(1));
    const at::Tensor factor_TD = 1 + (2 * draw_TD - 1) * options_.jitter;
    return x_TD.to(compute_type(x_TD)) * factor_TD;
  }

  Assignment choose(const at::Tensor& probability_TE, const TokenContext& tokens) const {
    const at::NoGradGuard no_grad;
    const Assignment requested = assign(top_k(probability_TE, 1));
    if (!(is_training() || limit_in_evaluation_)) return requested;
    return within_capacity_factor(config_, context_, tokens, requested,
                                  gather_scores(probability_TE, requested));
  }

  const SwitchOptions options_;
  at::Tensor weight_ED_;
  bool limit_in_evaluation_ = false;
};

}  // namespace

std::shared_ptr<Router> make_switch_router(const RouterConfig& config, const RouterContext& context,
                                           const OptionSet& options) {
  return std::make_shared<SwitchRouter>(config, context, options.as<SwitchOptions>());
}

OptionSet switch_options() { return OptionSet::of<SwitchOptions>(); }

std::vector<std::string> validate_switch(const RouterConfig& config, int64_t num_experts,
                                         const OptionSet& options) {
  std::vector<std::string> problems = common_problems(config, num_experts);
  const double jitter = options.as<SwitchOptions>().jitter;
  if (!(jitter >= 0 && jitter < 1)) {
    problems.push_back(format("moe.switch.jitter = {}: must be 0 or more and below 1", jitter));
  }
  return problems;
}

}  // namespace locus::moe
