// The dense-to-sparse gate: all experts at first, few at the end (EvoMoE: Nie et al., 2021, arXiv
// 2112.14397).
//
//   q = softmax((z + gumbel) / temperature)
//   A = {e : q_e > threshold}, and always the best;  from sparse_steps on its top_k best alone
//   y = sum over A of w_e E_e(x)                      not divided by the sum over A
//
// The temperature falls from max_temperature to min_temperature; steps count from the one at which
// the layer got its experts. Only what is in A is computed and sent: cost falls with the
// temperature. At the end and without noise, this is Switch (top_k = 1).
//
// Where we differ from the released code, which computes all experts at any temperature:
// - Its weights are softmax(z), of the experts that the noisy q has let through: with a sharp q the
//   best expert may be missing, and what is left sums to far below 1. Here w = q by default, which
//   sums to 1 but for what is below the threshold; `weights = "clean"` is the released rule.
// - Its switch to one expert comes at step -1 unless set, so that only the first step is soft. Here
//   it comes when the temperature has reached its end, unless set.
// - It evaluates by the one best expert whatever it trains. Here evaluation is what is being
//   trained, without noise: at the temperature and number of experts of the last step, which travel
//   with the weights. `evaluate_top_k` is the other rule, that of the model to be.
// - Its balance loss slides from E to 1 while the gate sharpens. `balance = "first_choice"`
//   compares first choices with mean probabilities, as Switch does: 1 when even, at any
//   temperature; `balance = "active"` is the released loss.
//
// T tokens, D hidden size, E experts, N assignments.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "locus/base/error.h"
#include "locus/moe/balance_loss.h"
#include "locus/moe/router.h"
#include "locus/moe/router_math.h"
#include "locus/ops/keyed_random.h"

namespace locus::moe {
namespace {

struct DenseToSparseOptions {
  double max_temperature = 2.0;
  double min_temperature = 0.5;
  std::string anneal_schedule = "linear";
  int64_t anneal_steps = 0;
  int64_t sparse_steps = 0;
  double threshold = 0.001;
  std::string noise = "gumbel";
  std::string weights = "noisy";
  std::string balance = "first_choice";
  bool evaluate_top_k = false;

  template <class V>
  void visit_fields(V& v) {
    v("max_temperature", max_temperature, "of the gate's softmax at first");
    v("min_temperature", min_temperature, "and at the end");
    v("anneal_schedule", anneal_schedule, "way from one to the other: linear | exponential | none");
    v("anneal_steps", anneal_steps, "steps that it takes; 0: half of those that are left");
    v("sparse_steps", sparse_steps,
      "steps after which a token gets at most moe.router.top_k experts; 0: anneal_steps; -1: "
      "never");
    v("threshold", threshold, "experts of a lower weight are left out");
    v("noise", noise, "added to the logits in training: gumbel | none");
    v("weights", weights, "of the experts: noisy (those that the threshold sees) | clean");
    v("balance", balance, "loads that the balance loss sees: first_choice | active");
    v("evaluate_top_k", evaluate_top_k,
      "evaluate by the top_k best experts, whatever is being trained");
  }
};

// Linear: tau_max - t (tau_max - tau_min) / D; exponential: tau_max (tau_min / tau_max)^(t / D);
// both end at tau_min.
double temperature_at(const DenseToSparseOptions& options, int64_t step, int64_t anneal_steps) {
  const double from = options.max_temperature, to = options.min_temperature;
  if (options.anneal_schedule == "none") return from;
  const double done = std::min(
      1.0, static_cast<double>(step) / static_cast<double>(std::max<int64_t>(1, anneal_steps)));
  return options.anneal_schedule == "linear" ? from - done * (from - to)
                                             : from * std::pow(to / from, done);
}

class DenseToSparseRouter final : public Router {
 public:
  DenseToSparseRouter(const RouterConfig& config, const RouterContext& context,
                      const DenseToSparseOptions& options)
      : Router(config, context), options_(options) {
    weight_ED_ = register_parameter("weight", init_gate_weight(context));
    temperature_ =
        register_buffer("temperature", at::full({}, options.max_temperature, at::kDouble));
    most_experts_ = register_buffer("most_experts", at::full({}, context.num_experts, at::kLong));
  }

  void on_step(int64_t step, int64_t total_steps) override {
    const int64_t own_step = step - context_.first_step;
    const int64_t anneal_steps =
        options_.anneal_steps > 0 ? options_.anneal_steps : (total_steps - context_.first_step) / 2;
    const int64_t sparse_steps = options_.sparse_steps == 0 ? anneal_steps : options_.sparse_steps;
    const bool is_sparse = sparse_steps > 0 && own_step >= sparse_steps;
    first_choices_E_.reset();
    temperature_.fill_(temperature_at(options_, own_step, anneal_steps));
    most_experts_.fill_(is_sparse ? config_.top_k : context_.num_experts);
  }

  Routing route(const at::Tensor& x_TD, const TokenContext& tokens,
                const Assignment* replay) override {
    const at::Tensor logits_TE = gate_logits(x_TD, weight_ED_);
    const at::Tensor clean_TE = at::softmax(logits_TE, 1);
    const at::Tensor gate_TE = sharpened(logits_TE, tokens);
    const bool is_clean = options_.weights == "clean" || evaluates_top_k();

    Routing routing;
    routing.assignment = replay ? *replay : choose(gate_TE, tokens, routing.num_requested);
    if (replay) routing.num_requested = replay->token_N.size(0);
    routing.weight_N = gather_scores(is_clean ? clean_TE : gate_TE, routing.assignment);
    routing.probability_TE = gate_TE.detach().to(at::kFloat);
    if (!is_training()) return routing;
    add_losses(config_,
               {logits_TE, clean_TE,
                options_.balance == "first_choice" ? routing.assignment.requested_TK : at::Tensor(),
                first_choices_E_, tokens.num_sequences, context_.pool, is_observed && !replay},
               routing);
    if (options_.balance == "active" && config_.aux_loss_coeff > 0) add_active_balance(routing);
    return routing;
  }

  bool is_causal_in_training() const override { return !drops_look_ahead(config_); }
  void set_evaluate_with_training_rule(bool value) override { limit_in_evaluation_ = value; }

  // Where all experts were a token's, all that are left are.
  void cut_from(const Router& whole) override {
    Router::cut_from(whole);
    const bool is_sparse =
        whole.named_buffers()["most_experts"].item<int64_t>() == whole.config().top_k;
    most_experts_.fill_(is_sparse ? config_.top_k : context_.num_experts);
  }

 private:
  bool evaluates_top_k() const { return !is_training() && options_.evaluate_top_k; }

  at::Tensor sharpened(const at::Tensor& logits_TE, const TokenContext& tokens) const {
    if (evaluates_top_k()) return at::softmax(logits_TE, 1);
    at::Tensor noisy_TE = logits_TE;
    if (is_training() && options_.noise == "gumbel")
      noisy_TE = noisy_TE + gumbel(logits_TE, tokens);
    return at::softmax(noisy_TE / temperature_.item<double>(), 1);
  }

  // Keyed draws: a replay sees the same noise.
  at::Tensor gumbel(const at::Tensor& like_TE, const TokenContext& tokens) const {
    const uint64_t key = draw_key(context_, tokens, "dense_to_sparse.gumbel");
    // In double and off the ends: a logarithm of 0 would be the whole gate.
    const at::Tensor draw_TE =
        ops::keyed_uniform(key, tokens.global_index_T, context_.num_experts).to(at::kDouble) +
        std::ldexp(1.0, -26);
    return (-(-draw_TE.log()).log()).to(like_TE.scalar_type());
  }

  Assignment choose(const at::Tensor& gate_TE, const TokenContext& tokens, int64_t& num_requested) {
    const at::NoGradGuard no_grad;
    const int64_t most = evaluates_top_k() ? config_.top_k : most_experts_.item<int64_t>();
    const at::Tensor best_TK = top_k(gate_TE, most);
    const at::Tensor first_T1 = best_TK.slice(1, 0, 1);
    at::Tensor is_active_TE = gate_TE > options_.threshold;
    if (most < context_.num_experts) {
      is_active_TE =
          at::zeros_like(is_active_TE).scatter(1, best_TK, true).logical_and(is_active_TE);
    }
    const at::Tensor pair_N2 = at::nonzero(is_active_TE.scatter(1, first_T1, true));
    const Assignment active{
        pair_N2.select(1, 0).contiguous(), pair_N2.select(1, 1).contiguous(), first_T1, {}};
    num_requested = active.token_N.size(0);
    if (is_training()) {
      add_requested(requested_E, active.expert_N, context_.num_experts);
      add_requested(first_choices_E_, first_T1, context_.num_experts);
    }
    if (config_.capacity_factor == 0 || !(is_training() || limit_in_evaluation_)) return active;
    const int64_t capacity =
        expert_capacity(config_.capacity_factor, gate_TE.size(0) * context_.pool.num_ranks(), most,
                        context_.num_experts);
    const SharedRequests shared(config_, context_, tokens, active, gather_scores(gate_TE, active),
                                /*is_even=*/false);
    return shared.within(capacity);
  }

  // E^2 * mean_e( mean_t(w_te) * share of the tokens that have e ), over the tokens of all ranks;
  // this rank's part of it.
  void add_active_balance(Routing& routing) const {
    Assignment& assignment = routing.assignment;
    const int64_t num_experts = context_.num_experts;
    const auto num_tokens = static_cast<double>(
        std::max<int64_t>(1, assignment.requested_TK.size(0) * context_.pool.num_ranks()));
    if (!assignment.count_E.defined()) {
      assignment.count_E = context_.pool.sum(count_experts(assignment.expert_N, num_experts));
    }
    const at::Tensor weight_E = at::zeros({num_experts}, routing.weight_N.options())
                                    .index_add(0, assignment.expert_N, routing.weight_N);
    const at::Tensor count_E = assignment.count_E.to(weight_E.scalar_type());
    const at::Tensor loss = (weight_E * count_E).sum() * static_cast<double>(num_experts) *
                            config_.aux_loss_coeff / (num_tokens * num_tokens);
    routing.balance_loss = loss.detach();
    routing.aux_loss = routing.aux_loss.defined() ? routing.aux_loss + loss : loss;
  }

  const DenseToSparseOptions options_;
  at::Tensor weight_ED_;
  at::Tensor temperature_;      // float64 scalar, of the last step
  at::Tensor most_experts_;     // int64 scalar, of a token at the last step
  at::Tensor first_choices_E_;  // of this step so far: the balance loss of a global batch
  bool limit_in_evaluation_ = false;
};

void check_temperatures(const DenseToSparseOptions& options, std::vector<std::string>& problems) {
  if (!(options.min_temperature > 0)) {
    problems.push_back(format(
        "moe.dense_to_sparse.min_temperature = {}: must be above 0, logits are divided by it",
        options.min_temperature));
  }
  if (!(options.max_temperature >= options.min_temperature) ||
      !std::isfinite(options.max_temperature)) {
    problems.push_back(
        format("moe.dense_to_sparse.max_temperature = {}: must not be below min_temperature = {}",
               options.max_temperature, options.min_temperature));
  }
}

}  // namespace

std::shared_ptr<Router> make_dense_to_sparse_router(const RouterConfig& config,
                                                    const RouterContext& context,
                                                    const OptionSet& options) {
  return std::make_shared<DenseToSparseRouter>(config, context, options.as<DenseToSparseOptions>());
}

OptionSet dense_to_sparse_options() { return OptionSet::of<DenseToSparseOptions>(); }

std::vector<std::string> validate_dense_to_sparse(const RouterConfig& config, int64_t num_experts,
                                                  const OptionSet& option_set) {
  const auto& options = option_set.as<DenseToSparseOptions>();
  std::vector<std::string> problems = common_problems(config, num_experts);
  check_top_k(problems, config, num_experts);
  check_temperatures(options, problems);
  check_choice(problems, "dense_to_sparse.anneal_schedule", options.anneal_schedule,
               {"linear", "exponential", "none"});
  check_choice(problems, "dense_to_sparse.noise", options.noise, {"gumbel", "none"});
  check_choice(problems, "dense_to_sparse.weights", options.weights, {"noisy", "clean"});
  check_choice(problems, "dense_to_sparse.balance", options.balance, {"first_choice", "active"});
  if (options.anneal_steps < 0) {
    problems.push_back(
        format("moe.dense_to_sparse.anneal_steps = {}: must be 0 or more", options.anneal_steps));
  }
  if (options.sparse_steps < -1) {
    problems.push_back(format("moe.dense_to_sparse.sparse_steps = {}: must be -1 (never) or more",
                              options.sparse_steps));
  }
  const double even = 1.0 / static_cast<double>(std::max<int64_t>(1, num_experts));
  if (!(options.threshold >= 0 && (options.threshold < even || num_experts <= 1))) {
    problems.push_back(
        format("moe.dense_to_sparse.threshold = {}: must be 0 or more, and below 1 / "
               "moe.num_experts = {:.4g}: an even gate would leave no expert",
               options.threshold, even));
  }
  return problems;
}

}  // namespace locus::moe
