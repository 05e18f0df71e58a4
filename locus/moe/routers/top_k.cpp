// The k best experts of each token by a learned linear gate; one router for a family of models.
//
// Softmax over all, then the k best   OLMoE (norm_topk_prob = false), Qwen3-MoE (true)
// Softmax over the chosen k           Mixtral (score_before_topk = false)
// Groups of experts first             DeepSeek-V2, arXiv 2405.04434 (group_score = "max");
//                                     DeepSeek-V3, arXiv 2412.19437 (sigmoid, "top2")
//
// Balance without a loss is that of Wang et al., 2024, arXiv 2408.15664, as in DeepSeek-V3: a bias
// per expert takes part in the choice alone and moves after every step.
//
// Where we differ: experts outside the chosen groups cannot be chosen at all (Transformers' code of
// DeepSeek-V3 sets their scores to 0, which a negative biased score loses against). With top_k = 1,
// norm_topk_prob does nothing, as in DeepSeek's code: a weight of always 1 would cut the gate off
// from the model's loss.
//
// T tokens, D hidden size, E experts, G groups, K choices, N assignments.
#include <ATen/ATen.h>

#include <cmath>
#include <limits>

#include "locus/base/error.h"
#include "locus/moe/balance_loss.h"
#include "locus/moe/router.h"
#include "locus/moe/router_math.h"

namespace locus::moe {
namespace {

struct TopKOptions {
  std::string score_function = "softmax";
  bool score_before_topk = true;
  bool norm_topk_prob = true;
  int64_t num_groups = 1;
  int64_t topk_group = 1;
  std::string group_score = "top2";
  double routed_scaling_factor = 1.0;
  double bias_update_rate = 0.0;

  template <class V>
  void visit_fields(V& v) {
    v("score_function", score_function, "score of an expert: softmax | sigmoid");
    v("score_before_topk", score_before_topk,
      "softmax over all experts, then choose; false: choose, then softmax over the chosen");
    v("norm_topk_prob", norm_topk_prob, "divide the weights of a token by their sum (top_k > 1)");
    v("num_groups", num_groups, "groups of neighbouring experts; 1: no groups");
    v("topk_group", topk_group, "groups that a token may choose from");
    v("group_score", group_score, "score of a group: top2 (sum of its two best) | max");
    v("routed_scaling_factor", routed_scaling_factor, "multiplies all weights");
    v("bias_update_rate", bias_update_rate,
      "step of the loss-free balancing bias, 0.001 in DeepSeek-V3; 0: no bias");
  }
};

class TopKRouter final : public Router {
 public:
  TopKRouter(const RouterConfig& config, const RouterContext& context, const TopKOptions& options)
      : Router(config, context), options_(options) {
    weight_ED_ = register_parameter("weight", init_gate_weight(context));
    if (options_.bias_update_rate > 0) {
      bias_E_ = register_buffer("expert_bias", at::zeros({context.num_experts}));
    }
  }

  Routing route(const at::Tensor& x_TD, const TokenContext& tokens,
                const Assignment* replay) override {
    const at::Tensor logits_TE = gate_logits(x_TD, weight_ED_);
    const at::Tensor score_TE = score(logits_TE);

    Routing routing;
    routing.assignment = replay ? *replay : choose(score_TE, tokens);
    const at::Tensor& requested_TK = routing.assignment.requested_TK;
    routing.num_requested = requested_TK.numel();
    routing.weight_N = combine_weights(score_TE, routing.assignment);

    const at::Tensor probability_TE = probability(logits_TE, score_TE);
    routing.probability_TE = probability_TE.detach().to(at::kFloat);
    if (!is_training()) return routing;
    if (!replay) add_requested(requested_E, requested_TK, context_.num_experts);
    add_losses(config_,
               {logits_TE, probability_TE, requested_TK, requested_E, tokens.num_sequences,
                context_.pool, is_observed && !replay},
               routing);
    return routing;
  }

  void on_step_end(const at::Tensor& load_E) override {
    if (!bias_E_.defined()) return;
    const at::NoGradGuard no_grad;
    move_bias(bias_E_, load_E, options_.bias_update_rate);
  }

  bool is_causal_in_training() const override { return !drops_look_ahead(config_); }
  void set_evaluate_with_training_rule(bool value) override { limit_in_evaluation_ = value; }

 private:
  // What experts compete with, and what weights are made of: probabilities, or logits where the
  // softmax comes after the choice.
  at::Tensor score(const at::Tensor& logits_TE) const {
    if (options_.score_function == "sigmoid") return at::sigmoid(logits_TE);
    return options_.score_before_topk ? at::softmax(logits_TE, 1) : logits_TE;
  }

  // A distribution over the experts, for the balance loss.
  at::Tensor probability(const at::Tensor& logits_TE, const at::Tensor& score_TE) const {
    if (options_.score_function == "sigmoid") return score_TE / (score_TE.sum(1, true) + 1e-20);
    return options_.score_before_topk ? score_TE : at::softmax(logits_TE, 1);
  }

  Assignment choose(const at::Tensor& score_TE, const TokenContext& tokens) const {
    const at::NoGradGuard no_grad;
    at::Tensor competing_TE = bias_E_.defined() ? score_TE + bias_E_ : score_TE;
    if (options_.num_groups > 1) competing_TE = within_best_groups(competing_TE);
    const Assignment requested = assign(top_k(competing_TE, config_.top_k));
    if (!(is_training() || limit_in_evaluation_)) return requested;
    return within_capacity_factor(config_, context_, tokens, requested,
                                  combine_weights(score_TE, requested));
  }

  // Scores outside the best groups of a token become minus infinity.
  at::Tensor within_best_groups(const at::Tensor& score_TE) const {
    const int64_t num_tokens = score_TE.size(0);
    const int64_t group_size = context_.num_experts / options_.num_groups;
    const at::Tensor score_TGe = score_TE.reshape({num_tokens, options_.num_groups, group_size});
    const int64_t num_best = options_.group_score == "max" ? 1 : std::min<int64_t>(2, group_size);
    const at::Tensor score_TG = std::get<0>(at::topk(score_TGe, num_best, 2)).sum(2);
    const at::Tensor outside_TG = at::ones_like(score_TG, score_TG.options().dtype(at::kBool))
                                      .scatter(1, top_k(score_TG, options_.topk_group), false);
    return score_TGe.masked_fill(outside_TG.unsqueeze(2), -std::numeric_limits<double>::infinity())
        .reshape_as(score_TE);
  }

  at::Tensor combine_weights(const at::Tensor& score_TE, const Assignment& assignment) const {
    const at::Tensor score_N = gather_scores(score_TE, assignment);
    const auto of_token = [&](const at::Tensor& value_T) {
      return value_T.index_select(0, assignment.token_N);
    };
    const at::Tensor requested_score_TK = score_TE.gather(1, assignment.requested_TK);
    at::Tensor weight_N = score_N;
    if (!options_.score_before_topk) {
      weight_N = at::exp(score_N - of_token(at::logsumexp(requested_score_TK, {1})));
    } else if (options_.norm_topk_prob && config_.top_k > 1) {
      weight_N = score_N / of_token(requested_score_TK.sum(1) + 1e-20);
    }
    return weight_N * options_.routed_scaling_factor;
  }

  const TopKOptions options_;
  at::Tensor weight_ED_;
  at::Tensor bias_E_;  // undefined without loss-free balancing
  bool limit_in_evaluation_ = false;
};

void check_groups(const TopKOptions& options, int64_t top_k, int64_t num_experts,
                  std::vector<std::string>& problems) {
  const int64_t groups = options.num_groups;
  if (groups < 1 || num_experts % groups != 0) {
    problems.push_back(
        format("moe.top_k.num_groups = {}: must divide moe.num_experts = {}", groups, num_experts));
    return;
  }
  if (options.topk_group < 1 || options.topk_group > groups) {
    problems.push_back(format("moe.top_k.topk_group = {}: must be 1 to num_groups = {}",
                              options.topk_group, groups));
  } else if (groups > 1 && top_k > options.topk_group * (num_experts / groups)) {
    problems.push_back(format("moe.router.top_k = {}: the {} chosen groups have only {} experts",
                              top_k, options.topk_group,
                              options.topk_group * (num_experts / groups)));
  }
}

void check_weights(const TopKOptions& options, int64_t top_k, int64_t num_experts,
                   std::vector<std::string>& problems) {
  if (!options.score_before_topk && options.score_function == "sigmoid") {
    problems.push_back("moe.top_k.score_before_topk = false: needs score_function = \"softmax\"");
  } else if (!options.score_before_topk && top_k == 1 && num_experts > 1) {
    problems.push_back(
        "moe.top_k.score_before_topk = false: with one expert per token its weight is always "
        "1 and the gate learns nothing from the model's loss; set true");
  }
  if (!(options.routed_scaling_factor > 0) || !std::isfinite(options.routed_scaling_factor)) {
    problems.push_back(format("moe.top_k.routed_scaling_factor = {}: must be above 0",
                              options.routed_scaling_factor));
  }
  check_not_negative(problems, "top_k.bias_update_rate", options.bias_update_rate);
}

}  // namespace

std::shared_ptr<Router> make_top_k_router(const RouterConfig& config, const RouterContext& context,
                                          const OptionSet& options) {
  return std::make_shared<TopKRouter>(config, context, options.as<TopKOptions>());
}

OptionSet top_k_options() { return OptionSet::of<TopKOptions>(); }

std::vector<std::string> validate_top_k(const RouterConfig& config, int64_t num_experts,
                                        const OptionSet& option_set) {
  const auto& options = option_set.as<TopKOptions>();
  std::vector<std::string> problems = common_problems(config, num_experts);
  check_top_k(problems, config, num_experts);
  check_choice(problems, "top_k.score_function", options.score_function, {"softmax", "sigmoid"});
  check_choice(problems, "top_k.group_score", options.group_score, {"top2", "max"});
  check_groups(options, config.top_k, num_experts, problems);
  check_weights(options, config.top_k, num_experts, problems);
  return problems;
}

}  // namespace locus::moe
