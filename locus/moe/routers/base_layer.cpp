// BASE: every expert gets equally many tokens, those that want it most (Lewis et al., 2021, arXiv
// 2103.16716).
//
// In training tokens are assigned by an auction (moe/auction.h) that makes the sum of scores h . c
// as large as balance permits; nothing is dropped, nothing is lost to a balance loss. The output is
// weighed by sigmoid(h . c), through which alone the expert's row c learns. Evaluation takes the
// best expert of each token: the balanced choice looks at all tokens, later ones too.
//
// Where we differ from fairseq's code:
// - Balance is over the tokens of all ranks, not of each rank alone: the same on any layout. Its
//   shuffle of tokens among ranks, which makes up for that, is not needed.
// - Tokens that the number of experts does not divide: an expert takes at most the next whole
//   number, as if tokens that score nothing filled up the batch. fairseq's auction does not end.
// - fairseq inserts a layer that mixes y = a E(h) + (1 - a) h, where E(h) = h + FFN(norm(h)): that
//   is h + a FFN(norm(h)), our residual block with the weight a. Scores see norm(h) here, h there.
//
// T tokens, D hidden size, E experts, N assignments.
#include <ATen/ATen.h>

#include "locus/moe/auction.h"
#include "locus/moe/balance_loss.h"
#include "locus/moe/router.h"
#include "locus/moe/router_math.h"

namespace locus::moe {
namespace {

struct BaseLayerOptions {
  template <class V>
  void visit_fields(V& /*v*/) {}
};

class BaseLayerRouter final : public Router {
 public:
  BaseLayerRouter(const RouterConfig& config, const RouterContext& context)
      : Router(config, context) {
    weight_ED_ = register_parameter("weight", init_centroids(context, context.hidden_size));
  }

  Routing route(const at::Tensor& x_TD, const TokenContext& tokens,
                const Assignment* replay) override {
    const at::Tensor score_TE = gate_logits(x_TD, weight_ED_);
    const at::Tensor weight_TE = at::sigmoid(score_TE);

    Routing routing;
    routing.assignment = replay ? *replay : choose(score_TE, weight_TE, tokens);
    routing.num_requested = routing.assignment.requested_TK.numel();
    routing.weight_N = gather_scores(weight_TE, routing.assignment);
    if (!is_training()) return routing;
    if (!replay) {
      add_requested(requested_E, routing.assignment.requested_TK, context_.num_experts);
    }
    add_losses(config_, {score_TE, {}, {}, {}, 1, context_.pool, is_observed && !replay}, routing);
    return routing;
  }

  bool is_causal_in_training() const override { return false; }
  void set_evaluate_with_training_rule(bool value) override { balance_in_evaluation_ = value; }

 private:
  Assignment choose(const at::Tensor& score_TE, const at::Tensor& weight_TE,
                    const TokenContext& tokens) const {
    const at::NoGradGuard no_grad;
    if (!(is_training() || balance_in_evaluation_)) return assign(top_k(score_TE, 1));
    const at::Tensor expert_T = auction_experts(score_TE, tokens.global_index_T, context_.pool);
    const Assignment requested = assign(expert_T.unsqueeze(1));
    // Below 1, a capacity factor drops some even of equal shares.
    return within_capacity_factor(config_, context_, tokens, requested,
                                  gather_scores(weight_TE, requested));
  }

  at::Tensor weight_ED_;
  bool balance_in_evaluation_ = false;
};

}  // namespace

std::shared_ptr<Router> make_base_layer_router(const RouterConfig& config,
                                               const RouterContext& context,
                                               const OptionSet& /*options*/) {
  return std::make_shared<BaseLayerRouter>(config, context);
}

OptionSet base_layer_options() { return OptionSet::of<BaseLayerOptions>(); }

std::vector<std::string> validate_base_layer(const RouterConfig& config, int64_t num_experts,
                                             const OptionSet& /*options*/) {
  return common_problems(config, num_experts);
}

}  // namespace locus::moe
