// GShard: the two best experts, the second one by chance (Lepikhin et al., 2020, arXiv 2006.16668).
//
// Weights g1 / (g1 + g2) and g2 / (g1 + g2). In training the second expert is used with probability
// min(1, 2 * p2). Under a capacity limit all first choices come before any second choice. The
// balance loss looks at first choices.
//
// Where we differ: p2 in that chance is the probability before normalisation, as in EvoMoE's code
// (the paper normalises first); the drop is by lowest weight unless drop_policy = "position";
// capacity is ceil(factor * 2 * T / E) over the whole micro-batch instead of groups; with
// aux_loss_scope = "global_batch" the loads are those of both choices; evaluation is dropless. With
// one expert there is no second.
//
// T tokens, D hidden size, E experts, N assignments.
#include <ATen/ATen.h>

#include <algorithm>

#include "locus/base/error.h"
#include "locus/moe/balance_loss.h"
#include "locus/moe/router.h"
#include "locus/moe/router_math.h"
#include "locus/ops/keyed_random.h"

namespace locus::moe {
namespace {

struct GShardOptions {
  bool random_second = true;
  std::string normalize = "before";

  template <class V>
  void visit_fields(V& v) {
    v("random_second", random_second,
      "use the second expert with probability min(1, 2 p) in training; false: always");
    v("normalize", normalize,
      "weights sum to 1 before drops, or after (then a lone expert has weight 1): before | after");
  }
};

class GShardRouter final : public Router {
 public:
  GShardRouter(const RouterConfig& config, const RouterContext& context,
               const GShardOptions& options)
      : Router(config, context), options_(options) {
    weight_ED_ = register_parameter("weight", init_gate_weight(context));
  }

  Routing route(const at::Tensor& x_TD, const TokenContext& tokens,
                const Assignment* replay) override {
    const at::Tensor logits_TE = gate_logits(x_TD, weight_ED_);
    const at::Tensor probability_TE = at::softmax(logits_TE, 1);

    Routing routing;
    if (replay) {
      routing.assignment = *replay;
      routing.num_requested = replay->token_N.numel();
    } else {
      const at::NoGradGuard no_grad;
      const Choices wanted = choose(probability_TE, tokens);
      routing.num_requested = wanted.assignment.token_N.numel();
      if (is_training()) {
        add_requested(requested_E, wanted.assignment.expert_N, context_.num_experts);
      }
      routing.assignment = limited(wanted, probability_TE, tokens);
    }
    routing.weight_N = combine_weights(probability_TE, routing.assignment);
    routing.probability_TE = probability_TE.detach().to(at::kFloat);
    if (!is_training()) return routing;
    const at::Tensor first_T1 = routing.assignment.requested_TK.slice(1, 0, 1);
    add_losses(config_,
               {logits_TE, probability_TE, first_T1, requested_E, tokens.num_sequences,
                context_.pool, is_observed && !replay},
               routing);
    return routing;
  }

  // Second choices queue behind the first choices of all tokens, later ones too.
  bool is_causal_in_training() const override { return config_.capacity_factor == 0; }
  void set_evaluate_with_training_rule(bool value) override { limit_in_evaluation_ = value; }

 private:
  struct Choices {
    Assignment assignment;
    at::Tensor choice_N;  // 0: first, 1: second
  };

  Choices choose(const at::Tensor& probability_TE, const TokenContext& tokens) const {
    const int64_t k = std::min<int64_t>(2, context_.num_experts);
    const at::Tensor expert_TK = top_k(probability_TE, k);
    const Assignment both = assign(expert_TK);
    const at::Tensor choice_N = at::arange(k, expert_TK.options()).expand_as(expert_TK).reshape(-1);
    if (!options_.random_second || !is_training() || k == 1) return {both, choice_N};

    const uint64_t key = draw_key(context_, tokens, "gshard.second");
    const at::Tensor draw_T1 = ops::keyed_uniform(key, tokens.global_index_T, 1);
    const at::Tensor second_T1 = probability_TE.gather(1, expert_TK.slice(1, 1, 2));
    const at::Tensor keep_T1 = draw_T1 < 2 * second_T1;
    const at::Tensor keep_N = at::cat({at::ones_like(keep_T1), keep_T1}, 1).reshape(-1);
    return {keep_where(both, keep_N), choice_N.masked_select(keep_N)};
  }

  Assignment limited(const Choices& wanted, const at::Tensor& probability_TE,
                     const TokenContext& tokens) const {
    if (!(is_training() || limit_in_evaluation_)) return wanted.assignment;
    return within_capacity_factor(config_, context_, tokens, wanted.assignment,
                                  combine_weights(probability_TE, wanted.assignment),
                                  wanted.choice_N);
  }

  at::Tensor combine_weights(const at::Tensor& probability_TE, const Assignment& assignment) const {
    const at::Tensor probability_N = gather_scores(probability_TE, assignment);
    const at::Tensor sum_T = options_.normalize == "before"
                                 ? probability_TE.gather(1, assignment.requested_TK).sum(1)
                                 : at::zeros({probability_TE.size(0)}, probability_TE.options())
                                       .index_add(0, assignment.token_N, probability_N);
    return probability_N / sum_T.index_select(0, assignment.token_N);
  }

  const GShardOptions options_;
  at::Tensor weight_ED_;
  bool limit_in_evaluation_ = false;
};

}  // namespace

std::shared_ptr<Router> make_gshard_router(const RouterConfig& config, const RouterContext& context,
                                           const OptionSet& options) {
  return std::make_shared<GShardRouter>(config, context, options.as<GShardOptions>());
}

OptionSet gshard_options() { return OptionSet::of<GShardOptions>(); }

std::vector<std::string> validate_gshard(const RouterConfig& config, int64_t num_experts,
                                         const OptionSet& options) {
  std::vector<std::string> problems = common_problems(config, num_experts);
  check_choice(problems, "gshard.normalize", options.as<GShardOptions>().normalize,
               {"before", "after"});
  return problems;
}

}  // namespace locus::moe
