// LocMoE (Li et al., 2024, arXiv 2401.13920): a gate without weights, and tokens that stay near.
//
// Gate, eq. 2-4: the channels of a token in E groups, the mean of a group is the value of an expert
// (grouped average pooling, GrAP). p = softmax(values / temperature), the k best experts.
//
// Capacity, theorem 1: the bound is in the metrics whatever the policy, and is the policy with
// "bound" and "adaptive". "factor" and "target_drop" do not heed it: measured angles ask for less.
//
// Losses: the balance loss; and locality, eq. 7: coeff * KL(D_c || D_l), D_c = the rank's mean p,
// D_l = all mass on the experts of the rank's own node. Ours, because the paper's KL is infinite: a
// share `locality_eps` of D_l is spread over the experts elsewhere.
//
// Where we differ, and why:
// - Values are scaled to unit variance (sum / sqrt(size) in place of sum / size). The plain mean of
//   a normalised token has the deviation sqrt(E / D): p would be 1 / E nearly, whatever the token.
// - ReLU after the gate is off. It makes ties at 0; with it the nearer expert wins a tie, then the
//   lower one, and so equal tokens may go different ways on different nodes.
// - With top_k = 1 the softmax is sharper than the paper's, temperature 0.3: at 1, p of unit values
//   is 0.2 for the best of 16 experts, and scales its output down to little. With more experts the
//   weights of a token sum to 1. benchmarks/locality compares these and others. A weight
//   that is 1 whatever the gate says (`output_weight = "one"`, one expert) has no gradient, and
//   only the balance and locality losses teach the gate (that is, the layer before: it has no
//   weights of its own). "straight_through" is 1, too, but has the gradient of p over a constant.
// - Over capacity, the lowest gate values are dropped, not the last tokens.
// - With moe.domain_groups the softmax is over the experts of the token's domain; the gate still
//   has a group of channels for each of all experts, so that it is the same layer either way.
// - Capacity is by the factor unless capacity_policy says otherwise. "bound" is the paper's
//   (theorem 1, from the measured angles, whose running mean moves on): about one token at the
//   angles that it reports, and above any factor's once tokens and rows of the gate align.
// - eps_i of eq. 4, which the paper calls noise and bias without more words, is either: drawn anew
//   for each token in training (noise_std), or moved after every step against the load, as in
//   routers/top_k.cpp, where it takes part in the choice alone (bias_update_rate).
//
// T tokens, D hidden size, E experts, K choices, N assignments.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <mutex>
#include <numbers>

#include "locus/base/error.h"
#include "locus/base/log.h"
#include "locus/moe/balance_loss.h"
#include "locus/moe/capacity_bound.h"
#include "locus/moe/pooled_gate.h"
#include "locus/moe/router.h"
#include "locus/moe/router_math.h"
#include "locus/ops/keyed_random.h"

namespace locus::moe {
namespace {

struct LocMoeOptions {
  std::string gate_scale = "unit_variance";
  bool relu = false;
  double noise_std = 0.0;
  double bias_update_rate = 0.0;
  double temperature = 0.0;
  std::string output_weight = "auto";
  double locality_loss_coeff = 0.0;
  double locality_eps = 0.01;
  std::string capacity_policy = "factor";
  double target_drop_share = 0.05;

  template <class V>
  void visit_fields(V& v) {
    v("gate_scale", gate_scale,
      "scale of a group's sum over its channels: unit_variance (/ sqrt(size)) | mean (/ size)");
    v("relu", relu, "ReLU on the gate's values, as in the paper");
    v("noise_std", noise_std,
      "deviation of the uniform noise on the gate's values in training; 0: none");
    v("bias_update_rate", bias_update_rate,
      "step of the loss-free balancing bias on the values, 0.01 or so; 0: no bias");
    v("temperature", temperature,
      "the values are divided by it before the softmax; 0: 0.3 with top_k = 1, 1 with more");
    v("output_weight", output_weight,
      "weight of an expert's output: probability | one (those of a token sum to 1) | "
      "straight_through (the same, but their sum is a constant to gradients) | auto (probability "
      "with top_k = 1, one with more)");
    v("locality_loss_coeff", locality_loss_coeff,
      "weight of the locality loss (mu in the paper); 0: none");
    v("locality_eps", locality_eps,
      "share of the local distribution that is left to experts of other nodes");
    v("capacity_policy", capacity_policy,
      "capacity of an expert: factor (moe.router.capacity_factor) | bound (the paper's lower "
      "bound, "
      "which may be one token) | target_drop (the least that drops no more than "
      "target_drop_share)");
    v("target_drop_share", target_drop_share,
      "share of the requests that the policy target_drop gives up");
  }
};

// Once, not for every layer.
void say_that_all_is_near() {
  static std::once_flag said;
  std::call_once(said, [] {
    log::warning(
        "moe.locmoe.locality_loss_coeff has no effect: the experts of a rank's group are all on "
        "its own node, or all on others");
  });
}

class LocMoeRouter final : public Router {
 public:
  LocMoeRouter(const RouterConfig& config, const RouterContext& context,
               const LocMoeOptions& options)
      : Router(config, context),
        options_(options),
        temperature_(temperature_or_default(options.temperature, config.top_k)),
        output_weight_(output_weight_or_default(options.output_weight, config.top_k, "one")),
        gate_(context, options.gate_scale == "mean" ? PoolScale::kMean : PoolScale::kUnitVariance) {
    if (options_.capacity_policy == "bound") {
      cosine_ = register_buffer("cosine", at::zeros({}));
      cosine_values_ = register_buffer("cosine_values", at::zeros({}, at::kLong));
    }
    if (options_.bias_update_rate > 0) {
      bias_E_ = register_buffer("expert_bias", at::zeros({context.num_experts}));
    }
    LocMoeRouter::set_expert_nodes(context.node_of_expert);
  }

  void set_expert_nodes(const std::vector<int64_t>& node_of_expert) override {
    is_local_E_ = local_experts(node_of_expert, context_.node);
    order_E_ = at::Tensor();
    if (options_.relu && is_local_E_.defined()) {
      order_E_ = at::argsort(is_local_E_.to(at::kLong), /*stable=*/true, /*dim=*/0,
                             /*descending=*/true);
    }
  }

  Routing route(const at::Tensor& x_TD, const TokenContext& tokens,
                const Assignment* replay) override {
    const at::Tensor value_TE = within_domain_group(gate_values(x_TD, tokens), context_, tokens);
    const at::Tensor logits_TE = value_TE / temperature_;
    const at::Tensor probability_TE = at::softmax(logits_TE, 1);

    Routing routing;
    if (replay) {
      routing.assignment = *replay;
    } else {
      choose(value_TE, x_TD, tokens, routing);
    }
    const at::Tensor& requested_TK = routing.assignment.requested_TK;
    routing.num_requested = requested_TK.numel();
    routing.weight_N = combine_weights(probability_TE, routing.assignment);
    routing.probability_TE = probability_TE.detach().to(at::kFloat);
    if (!is_training()) return routing;
    if (!replay) add_requested(requested_E, requested_TK, context_.num_experts);
    add_losses(config_,
               {logits_TE, probability_TE, requested_TK, requested_E, tokens.num_sequences,
                context_.pool, is_observed && !replay},
               routing);
    add_locality_loss(probability_TE, replay != nullptr, routing);
    return routing;
  }

  void on_step(int64_t /*step*/, int64_t /*total_steps*/) override { observed_.clear(); }

  // The running cosine moves with the steps that count: a skipped one leaves no trace.
  void on_step_end(const at::Tensor& load_E) override {
    const at::NoGradGuard no_grad;
    if (bias_E_.defined()) {
      move_bias(bias_E_, load_E, options_.bias_update_rate, context_.allowed_GE);
    }
    for (const at::Tensor& cosine : observed_) {
      cosine_values_ += 1;
      const at::Tensor rate =
          cosine_values_.to(cosine_.scalar_type()).reciprocal().clamp_min(1 - kDecay);
      cosine_ += rate * (cosine.to(cosine_.scalar_type()) - cosine_);
    }
    observed_.clear();
  }

  bool is_causal_in_training() const override {
    if (options_.capacity_policy == "factor") return !drops_look_ahead(config_);
    // target_drop counts the requests of later tokens, too.
    return options_.capacity_policy == "bound" && config_.drop_policy == "position";
  }
  void set_evaluate_with_training_rule(bool value) override { limit_in_evaluation_ = value; }

 private:
  at::Tensor gate_values(const at::Tensor& x_TD, const TokenContext& tokens) const {
    at::Tensor value_TE = gate_.values(x_TD);
    if (is_training() && options_.noise_std > 0) {
      const uint64_t key = draw_key(context_, tokens, "locmoe.noise");
      const at::Tensor draw_TE =
          ops::keyed_uniform(key, tokens.global_index_T, context_.num_experts);
      value_TE = value_TE + (2 * draw_TE - 1) * (std::numbers::sqrt3 * options_.noise_std);
    }
    return options_.relu ? at::relu(value_TE) : value_TE;
  }

  void choose(const at::Tensor& value_TE, const at::Tensor& x_TD, const TokenContext& tokens,
              Routing& routing) {
    const at::NoGradGuard no_grad;
    routing.assignment = assign(best_experts(bias_E_.defined() ? value_TE + bias_E_ : value_TE));
    const bool is_needed = is_observed || options_.capacity_policy == "bound";
    if (is_training() && is_needed) observe(x_TD, routing);
    if (!(is_training() || limit_in_evaluation_)) return;
    if (!has_limit()) return;
    const SharedRequests shared(config_, context_, tokens, routing.assignment,
                                gather_scores(value_TE, routing.assignment), /*is_even=*/true);
    routing.capacity = capacity(routing.assignment.requested_TK, shared);
    routing.assignment = shared.within(routing.capacity);
    take_counts(config_, shared, routing.assignment);
  }

  bool has_limit() const {
    if (options_.capacity_policy == "factor") return config_.capacity_factor > 0;
    // The bound, once something has been measured.
    return options_.capacity_policy == "target_drop" || cosine_values_.item<int64_t>() > 0;
  }

  // How near tokens are to the gate's row of their first choice.
  void observe(const at::Tensor& x_TD, Routing& routing) {
    const at::Tensor first_T1 = routing.assignment.requested_TK.slice(1, 0, 1);
    const at::Tensor cosine_T =
        gate_.affinities(x_TD).gather(1, first_T1).squeeze(1).to(at::kFloat);
    routing.cosine_sum_E = at::zeros({context_.num_experts}, cosine_T.options())
                               .index_add(0, first_T1.squeeze(1), cosine_T);
    if (options_.capacity_policy != "bound" || cosine_T.size(0) == 0) return;
    const double num_tokens = static_cast<double>(cosine_T.size(0) * context_.pool.num_ranks());
    observed_.push_back(context_.pool.sum(cosine_T.to(at::kDouble).sum()) / num_tokens);
  }

  // Of an expert, over all ranks.
  int64_t capacity(const at::Tensor& requested_TK, const SharedRequests& shared) const {
    if (options_.capacity_policy == "bound") {
      const double bound =
          capacity_bound(cosine_.item<double>(), context_.hidden_size, context_.num_experts);
      const auto all = static_cast<double>(requested_TK.size(0) * context_.pool.num_ranks());
      return static_cast<int64_t>(std::clamp(std::ceil(bound), 1.0, std::max(all, 1.0)));
    }
    if (options_.capacity_policy == "target_drop") {
      return capacity_of_drop_share(shared.count_E(), options_.target_drop_share);
    }
    return expert_capacity(config_.capacity_factor,
                           requested_TK.size(0) * context_.pool.num_ranks(), config_.top_k,
                           context_.num_experts);
  }

  // Of equal values the nearer expert wins, where ReLU makes many equal.
  at::Tensor best_experts(const at::Tensor& value_TE) const {
    if (!order_E_.defined()) return top_k(value_TE, config_.top_k);
    const at::Tensor order_E = order_E_.to(value_TE.device());
    const at::Tensor place_TK = top_k(value_TE.index_select(1, order_E), config_.top_k);
    return order_E.index_select(0, place_TK.reshape(-1)).reshape_as(place_TK);
  }

  at::Tensor combine_weights(const at::Tensor& probability_TE, const Assignment& assignment) const {
    const at::Tensor weight_N = gather_scores(probability_TE, assignment);
    if (output_weight_ == "probability") return weight_N;
    const at::Tensor sum_T = probability_TE.gather(1, assignment.requested_TK).sum(1);
    const bool is_constant = output_weight_ == "straight_through";
    return weight_N / (is_constant ? sum_T.detach() : sum_T).index_select(0, assignment.token_N);
  }

  // This rank's part of the mean over the ranks.
  void add_locality_loss(const at::Tensor& probability_TE, bool is_replay, Routing& routing) const {
    if (options_.locality_loss_coeff == 0 || probability_TE.size(0) == 0) return;
    if (!is_local_E_.defined()) {
      say_that_all_is_near();
      return;
    }
    const auto loss_of = [this](const at::Tensor& p_TE) {
      return locality_loss(p_TE, is_local_E_, options_.locality_eps) *
             (options_.locality_loss_coeff / static_cast<double>(context_.pool.num_ranks()));
    };
    const at::Tensor loss = loss_of(probability_TE);
    routing.aux_loss = routing.aux_loss.defined() ? routing.aux_loss + loss : loss;
    routing.locality_loss = loss.detach();
    if (is_observed && !is_replay)
      routing.locality_gradient = squared_gradient(probability_TE, loss_of);
  }

  const LocMoeOptions options_;
  const double temperature_;
  const std::string output_weight_;
  const PooledGate gate_;
  static constexpr double kDecay = 0.99;  // of the running cosine, at each micro-batch

  at::Tensor bias_E_;                  // undefined without loss-free balancing
  at::Tensor cosine_, cosine_values_;  // running mean of tokens and their experts' rows; "bound"
  std::vector<at::Tensor> observed_;   // this step's micro-batches
  at::Tensor is_local_E_;              // bool; undefined: all experts are near
  at::Tensor order_E_;                 // experts, the near ones first; undefined: as they are
  bool limit_in_evaluation_ = false;
};

}  // namespace

std::shared_ptr<Router> make_locmoe_router(const RouterConfig& config, const RouterContext& context,
                                           const OptionSet& options) {
  return std::make_shared<LocMoeRouter>(config, context, options.as<LocMoeOptions>());
}

OptionSet locmoe_options() { return OptionSet::of<LocMoeOptions>(); }

std::vector<std::string> validate_locmoe(const RouterConfig& config, int64_t num_experts,
                                         const OptionSet& option_set) {
  const auto& options = option_set.as<LocMoeOptions>();
  std::vector<std::string> problems = common_problems(config, num_experts);
  check_top_k(problems, config, num_experts);
  check_choice(problems, "locmoe.gate_scale", options.gate_scale, {"unit_variance", "mean"});
  check_choice(problems, "locmoe.output_weight", options.output_weight,
               {"auto", "probability", "one", "straight_through"});
  check_choice(problems, "locmoe.capacity_policy", options.capacity_policy,
               {"factor", "bound", "target_drop"});
  if (options.capacity_policy != "factor" && config.capacity_factor != 0) {
    problems.push_back(
        format("moe.router.capacity_factor = {} has no part in moe.locmoe.capacity_policy = "
               "\"{}\": set it "
               "to 0",
               config.capacity_factor, options.capacity_policy));
  }
  if (!(options.target_drop_share >= 0 && options.target_drop_share < 1)) {
    problems.push_back(format("moe.locmoe.target_drop_share = {}: must be 0 or more and below 1",
                              options.target_drop_share));
  }
  check_not_negative(problems, "locmoe.noise_std", options.noise_std);
  check_not_negative(problems, "locmoe.bias_update_rate", options.bias_update_rate);
  check_not_negative(problems, "locmoe.locality_loss_coeff", options.locality_loss_coeff);
  check_not_negative(problems, "locmoe.temperature", options.temperature);
  if (!(options.locality_eps > 0 && options.locality_eps < 1)) {
    problems.push_back(
        format("moe.locmoe.locality_eps = {}: must be above 0 and below 1", options.locality_eps));
  }
  return problems;
}

}  // namespace locus::moe
