// All experts for every token, mixed by a softmax gate: what sparse routers are held against, at E
// times their cost (Jacobs, Jordan, Nowlan, Hinton, 1991).
//
// T tokens, D hidden size, E experts, N assignments.
#include <ATen/ATen.h>

#include "locus/moe/balance_loss.h"
#include "locus/moe/router.h"
#include "locus/moe/router_math.h"

namespace locus::moe {
namespace {

class SoftRouter final : public Router {
 public:
  SoftRouter(const RouterConfig& config, const RouterContext& context) : Router(config, context) {
    weight_ED_ = register_parameter("weight", init_gate_weight(context));
  }

  Routing route(const at::Tensor& x_TD, const TokenContext& tokens,
                const Assignment* replay) override {
    const at::Tensor logits_TE = gate_logits(x_TD, weight_ED_);
    const at::Tensor probability_TE = at::softmax(logits_TE, 1);

    Routing routing;
    routing.assignment = replay ? *replay : choose(probability_TE, tokens);
    routing.num_requested = probability_TE.numel();
    routing.weight_N = gather_scores(probability_TE, routing.assignment);
    routing.probability_TE = probability_TE.detach().to(at::kFloat);
    if (!is_training()) return routing;
    if (!replay) {
      add_requested(requested_E, routing.assignment.requested_TK, context_.num_experts);
    }
    // The load is even whatever the gate does: nothing to balance.
    add_losses(config_,
               {logits_TE, probability_TE, {}, {}, 1, context_.pool, is_observed && !replay},
               routing);
    return routing;
  }

  bool is_causal_in_training() const override { return !drops_look_ahead(config_); }
  void set_evaluate_with_training_rule(bool value) override { limit_in_evaluation_ = value; }

 private:
  Assignment choose(const at::Tensor& probability_TE, const TokenContext& tokens) const {
    const at::NoGradGuard no_grad;
    const Assignment requested = assign(top_k(probability_TE, context_.num_experts));
    if (!(is_training() || limit_in_evaluation_)) return requested;
    return within_capacity_factor(config_, context_, tokens, requested,
                                  gather_scores(probability_TE, requested));
  }

  at::Tensor weight_ED_;
  bool limit_in_evaluation_ = false;
};

struct SoftOptions {
  template <class V>
  void visit_fields(V& /*v*/) {}
};

}  // namespace

std::shared_ptr<Router> make_soft_router(const RouterConfig& config, const RouterContext& context,
                                         const OptionSet& /*options*/) {
  return std::make_shared<SoftRouter>(config, context);
}

OptionSet soft_options() { return OptionSet::of<SoftOptions>(); }

std::vector<std::string> validate_soft(const RouterConfig& config, int64_t num_experts,
                                       const OptionSet& /*options*/) {
  return common_problems(config, num_experts);
}

}  // namespace locus::moe
