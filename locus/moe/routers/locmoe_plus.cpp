// LocMoE+, later "Expert-Token Resonance" (arXiv 2406.00023): tokens and experts choose each other,
// and over training an expert takes fewer tokens.
//
// Affinity, eq. 2-4: delta = cos(x_t, w_i), w_i = row i of the pooled gate (moe/pooled_gate.h).
// Scores: p = softmax(delta sqrt(D) / temperature); the paper has no scale. With sqrt(D) the logits
// of a token of independent channels have unit variance; why they are sharper with top_k = 1, and
// outputs weighed by p, is told in routers/locmoe.cpp.
//
// Selection, eq. 5-6:
// 1. A token names its experts of highest affinity: the fewest whose p sum to `theta`, at least
//    one, at most moe.router.top_k.
// 2. An expert takes, of the tokens of all ranks that named it, those of highest affinity (the
//    paper's "Bottom-C" is of angles): the fewest whose p sum to a share rho of all that named it,
//    not below the floor, not above the ceiling. Capacity differs from expert to expert.
// A token that nobody takes passes through the residual.
//
// rho (ours; the paper asks for C >= 2 s q_i and leaves the schedule open): q_i is the chance that
// a token that would rather have another expert has a higher affinity to expert i than one that
// wants i most. It is measured on every batch, from histograms of the affinities; q is the mean of
// its running means.
//   rho = 1 - (1 - rho_end) * progress * (1 - 2 q),   q = 1/2: experts cannot tell their tokens
// What a token wants most is what it is nearest to, so that q is far below 1/2 for noise, too: 0.03
// of 16 experts, 0.10 of 4. The schedule does the work; q holds it back where few experts compete.
// progress rises from 0 to 1 between the shares shift_begin and shift_end of training. So it is
// token choice at first (rho = 1) and becomes expert choice as experts learn to tell tokens apart.
//
// Evaluation and generation look at one token alone (ours): an expert takes a token that names it
// where delta is at least the running mean of the lowest affinity that it admitted in training; a
// batch in which it refused nobody counts as "all".
//
// Where we differ: the balance loss counts the expert that a token names first. The floor is a
// setting, min_capacity_factor: remark 7's, exp(d delta^2 / (2 - delta^2)) / n, is below one token
// for random angles and above any ceiling once tokens and experts align.
//
// T tokens, D hidden size, E experts, L named experts at most, B bins, N assignments.
#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "locus/base/error.h"
#include "locus/moe/balance_loss.h"
#include "locus/moe/expert_selection.h"
#include "locus/moe/pooled_gate.h"
#include "locus/moe/router.h"
#include "locus/moe/router_math.h"

namespace locus::moe {
namespace {

struct LocMoePlusOptions {
  double temperature = 0.0;
  double theta = 1.0;
  std::string output_weight = "auto";
  double rho_end = 0.4;
  double shift_begin = 0.3;
  double shift_end = 0.7;
  double min_capacity_factor = 0.0;
  double decay = 0.95;
  std::string selection = "global";

  template <class V>
  void visit_fields(V& v) {
    v("temperature", temperature,
      "divides the affinities' logits before the softmax; 0: 0.3 with top_k = 1, 1 with more");
    v("theta", theta,
      "a token names the fewest experts whose probabilities sum to this, at most top_k; 1: top_k");
    v("output_weight", output_weight,
      "weight of an expert's output: probability | chosen (softmax over those that took it) | auto "
      "(probability with top_k = 1, chosen with more)");
    v("rho_end", rho_end,
      "share of what named it that an expert keeps at the end if it can tell all tokens; 1: all");
    v("shift_begin", shift_begin, "share of training from which experts take fewer tokens");
    v("shift_end", shift_end, "share of training from which they take as few as they will");
    v("min_capacity_factor", min_capacity_factor,
      "an expert takes at least ceil(this * tokens / experts) of those that named it");
    v("decay", decay, "share of their old value that running means keep at each micro-batch");
    v("selection", selection,
      "tokens that an expert chooses among: global (of all ranks) | rank (of each rank for itself; "
      "what is learned then depends on the layout)");
  }
};

constexpr int64_t kBins = 64;
constexpr double kHistogramEnd = 4.0;  // standard deviations of an affinity to each side

// P(irrelevant > discriminative) + P(equal) / 2 of each expert; NaN where one of them is missing.
at::Tensor chance_of_confusion(const at::Tensor& discriminative_EB,
                               const at::Tensor& irrelevant_EB) {
  const at::Tensor below_EB = discriminative_EB.cumsum(1) - discriminative_EB;
  const at::Tensor wrong_E = (irrelevant_EB * (below_EB + discriminative_EB / 2)).sum(1);
  return wrong_E / (discriminative_EB.sum(1) * irrelevant_EB.sum(1));
}

class LocMoePlusRouter final : public Router {
 public:
  LocMoePlusRouter(const RouterConfig& config, const RouterContext& context,
                   const LocMoePlusOptions& options)
      : Router(config, context),
        options_(options),
        temperature_(temperature_or_default(options.temperature, config.top_k)),
        output_weight_(output_weight_or_default(options.output_weight, config.top_k, "chosen")),
        gate_(context, PoolScale::kUnitVariance) {
    // Before the first update everything is admitted, and no expert can tell its tokens.
    threshold_ = make_mean("threshold", kTookAll);
    confusion_ = make_mean("confusion", 0.5);
    progress_ = register_buffer("progress", at::zeros({}));
  }

  Routing route(const at::Tensor& x_TD, const TokenContext& tokens,
                const Assignment* replay) override {
    const at::Tensor affinity_TE = within_domain_group(gate_.affinities(x_TD), context_, tokens);
    const at::Tensor logits_TE = affinity_TE * (deviations() / temperature_);
    const at::Tensor probability_TE = at::softmax(logits_TE, 1);

    Routing routing;
    if (replay) {
      routing.assignment = *replay;
      routing.num_requested = replay->token_N.numel();
    } else {
      const at::NoGradGuard no_grad;
      const Assignment named = named_by_tokens(affinity_TE, probability_TE);
      routing.num_requested = named.token_N.numel();
      routing.assignment = choose(named, tokens, affinity_TE.detach(), probability_TE.detach());
    }
    routing.weight_N = combine_weights(logits_TE, probability_TE, routing.assignment);
    routing.probability_TE = probability_TE.detach().to(at::kFloat);
    if (!is_training()) return routing;
    const at::Tensor& first_T1 = routing.assignment.requested_TK;
    if (!replay) add_requested(first_choices_E_, first_T1, context_.num_experts);
    add_losses(config_,
               {logits_TE, probability_TE, first_T1, first_choices_E_, tokens.num_sequences,
                context_.pool, is_observed && !replay},
               routing);
    return routing;
  }

  void on_step(int64_t step, int64_t total_steps) override {
    const int64_t first = context_.first_step;
    const double share = static_cast<double>(step - first) /
                         static_cast<double>(std::max<int64_t>(1, total_steps - first));
    const double length = options_.shift_end - options_.shift_begin;
    progress_.fill_(length > 0 ? std::clamp((share - options_.shift_begin) / length, 0.0, 1.0)
                               : (share >= options_.shift_end ? 1.0 : 0.0));
    observed_.clear();
    first_choices_E_.reset();
  }

  // Running means move with the steps that count: a skipped one leaves no trace.
  void on_step_end(const at::Tensor& /*requested_E*/) override {
    const at::NoGradGuard no_grad;
    for (const Observation& one : observed_) {
      move_mean(threshold_, one.lowest_E);
      if (one.confusion_E.defined()) move_mean(confusion_, one.confusion_E);
    }
    observed_.clear();
  }

  bool is_causal_in_training() const override { return false; }
  void set_evaluate_with_training_rule(bool value) override {
    evaluate_with_training_rule_ = value;
  }

 private:
  // Of each expert: a plain mean over its first values, an exponential one from then on.
  struct RunningMean {
    at::Tensor value_E, num_values_E;
  };

  // Of one micro-batch, over all ranks.
  struct Observation {
    at::Tensor lowest_E;     // see Selection
    at::Tensor confusion_E;  // q; NaN: not known
  };

  RunningMean make_mean(const std::string& name, double initial) {
    return {register_buffer(name, at::full({context_.num_experts}, initial)),
            register_buffer(name + "_values", at::zeros({context_.num_experts}, at::kLong))};
  }

  // NaN leaves no trace.
  void move_mean(RunningMean& mean, const at::Tensor& value_E) const {
    const at::Tensor value = value_E.to(mean.value_E.options());
    const at::Tensor is_there_E = value.isnan().logical_not();
    mean.num_values_E += is_there_E.to(at::kLong);
    const at::Tensor rate = mean.num_values_E.to(value.scalar_type())
                                .clamp_min(1)
                                .reciprocal()
                                .clamp_min(1 - options_.decay);
    mean.value_E += at::where(is_there_E, rate * (value - mean.value_E), 0.0);
  }

  // Affinities of independent channels have the deviation 1 / sqrt(D).
  double deviations() const { return std::sqrt(static_cast<double>(context_.hidden_size)); }

  SelectionLimits limits(int64_t num_tokens) const {
    SelectionLimits out;
    const auto of_factor = [&](double factor) {
      return expert_capacity(factor, num_tokens, 1, context_.num_experts);
    };
    if (config_.capacity_factor > 0) out.ceiling = of_factor(config_.capacity_factor);
    out.floor = of_factor(options_.min_capacity_factor);
    const double confusion = std::min(0.5, confusion_.value_E.mean().item<double>());
    out.rho = 1 - (1 - options_.rho_end) * progress_.item<double>() * (1 - 2 * confusion);
    return out;
  }

  // What the tokens ask for.
  Assignment named_by_tokens(const at::Tensor& affinity_TE,
                             const at::Tensor& probability_TE) const {
    const at::Tensor best_TL = top_k(affinity_TE, config_.top_k);
    Assignment named = assign(best_TL);
    if (options_.theta < 1) {
      const at::Tensor probability_TL = probability_TE.gather(1, best_TL);
      const at::Tensor before_TL = probability_TL.cumsum(1) - probability_TL;
      at::Tensor is_named_TL = before_TL.lt(options_.theta);
      is_named_TL.select(1, 0).fill_(true);
      named = keep_where(named, is_named_TL.reshape(-1));
    }
    named.requested_TK = best_TL.slice(1, 0, 1).contiguous();
    return named;
  }

  // What the experts make of it.
  Assignment choose(const Assignment& named, const TokenContext& tokens,
                    const at::Tensor& affinity_TE, const at::Tensor& probability_TE) {
    if (is_training()) add_requested(requested_E, named.expert_N, context_.num_experts);
    const at::Tensor affinity_N = gather_scores(affinity_TE, named).to(at::kDouble);
    if (!is_training() && !evaluate_with_training_rule_) {
      const at::Tensor threshold_N =
          threshold_.value_E.to(at::kDouble).index_select(0, named.expert_N);
      return keep_where(named, affinity_N.ge(threshold_N));
    }
    const TokenPool pool = options_.selection == "rank" ? TokenPool() : context_.pool;
    const int64_t num_tokens = affinity_TE.size(0);
    const Selection selection = select_by_experts(
        {named.token_N, named.expert_N, affinity_N, gather_scores(probability_TE, named)},
        context_.num_experts, num_tokens, limits(num_tokens * pool.num_ranks()), pool, tokens);
    if (is_training()) {
      const bool is_used = options_.rho_end < 1;
      observed_.push_back({lowest_of_all(pool, selection.lowest_E),
                           is_used ? confusion(affinity_TE, named.requested_TK) : at::Tensor()});
    }
    return keep_where(named, selection.keep_N);
  }

  // The mean over the ranks that choose for themselves, so that all have one threshold; NaN where
  // nobody came to any of them.
  at::Tensor lowest_of_all(const TokenPool& pool, const at::Tensor& lowest_E) const {
    if (pool.num_ranks() == context_.pool.num_ranks()) return lowest_E;
    const at::Tensor is_there_E = lowest_E.isnan().logical_not();
    const at::Tensor sum = context_.pool.sum(
        at::stack({lowest_E.nan_to_num(0.0), is_there_E.to(lowest_E.scalar_type())}));
    return sum[0] / sum[1];
  }

  // By histograms, whose sums over the ranks are the same however the tokens are spread.
  at::Tensor confusion(const at::Tensor& affinity_TE, const at::Tensor& first_T1) const {
    const int64_t num_experts = context_.num_experts;
    const double bins_per_deviation = kBins / (2 * kHistogramEnd);
    const at::Tensor bin_TE =
        ((affinity_TE.nan_to_num(0.0) * deviations() + kHistogramEnd) * bins_per_deviation)
            .floor()
            .clamp(0, kBins - 1)
            .to(at::kLong);
    const at::Tensor cell_TE =
        bin_TE + at::arange(num_experts, bin_TE.options()).unsqueeze(0) * kBins;
    const auto histogram = [&](const at::Tensor& cell) {
      return at::bincount(cell.reshape(-1), {}, num_experts * kBins).to(at::kDouble);
    };
    // Other domains' tokens do not compete for an expert.
    const at::Tensor competing_TE = affinity_TE.ne(-std::numeric_limits<double>::infinity());
    const at::Tensor both = context_.pool.sum(at::stack(
        {histogram(cell_TE.gather(1, first_T1)), histogram(cell_TE.masked_select(competing_TE))}));
    const at::Tensor discriminative_EB = both[0].view({num_experts, kBins});
    return chance_of_confusion(discriminative_EB,
                               both[1].view({num_experts, kBins}) - discriminative_EB);
  }

  at::Tensor combine_weights(const at::Tensor& logits_TE, const at::Tensor& probability_TE,
                             const Assignment& assignment) const {
    if (output_weight_ == "probability") return gather_scores(probability_TE, assignment);
    // Softmax over the assignments of a token, which are few and differ in number.
    const at::Tensor logit_N = gather_scores(logits_TE, assignment);
    const at::Tensor chosen_TE =
        at::full_like(logits_TE.detach(), -std::numeric_limits<double>::infinity())
            .index_put({assignment.token_N, assignment.expert_N}, logit_N.detach());
    const at::Tensor largest_T = chosen_TE.amax(1);
    const at::Tensor size_N = (logit_N - largest_T.index_select(0, assignment.token_N)).exp();
    const at::Tensor sum_T = at::zeros({logits_TE.size(0)}, size_N.options().requires_grad(false))
                                 .index_add(0, assignment.token_N, size_N);
    return size_N / sum_T.index_select(0, assignment.token_N);
  }

  const LocMoePlusOptions options_;
  const double temperature_;
  const std::string output_weight_;
  const PooledGate gate_;
  RunningMean threshold_, confusion_;
  at::Tensor progress_;                // of the shift from token choice to expert choice, 0 to 1
  at::Tensor first_choices_E_;         // of this step so far: the balance loss of a global batch
  std::vector<Observation> observed_;  // this step's micro-batches
  bool evaluate_with_training_rule_ = false;
};

}  // namespace

std::shared_ptr<Router> make_locmoe_plus_router(const RouterConfig& config,
                                                const RouterContext& context,
                                                const OptionSet& options) {
  return std::make_shared<LocMoePlusRouter>(config, context, options.as<LocMoePlusOptions>());
}

OptionSet locmoe_plus_options() { return OptionSet::of<LocMoePlusOptions>(); }

std::vector<std::string> validate_locmoe_plus(const RouterConfig& config, int64_t num_experts,
                                              const OptionSet& option_set) {
  const auto& options = option_set.as<LocMoePlusOptions>();
  std::vector<std::string> problems = common_problems(config, num_experts);
  if (config.drop_policy == "random") {
    problems.push_back(
        "moe.router.drop_policy = \"random\": locmoe_plus drops by affinity; remove the setting");
  }
  check_top_k(problems, config, num_experts);
  check_choice(problems, "locmoe_plus.output_weight", options.output_weight,
               {"auto", "probability", "chosen"});
  check_choice(problems, "locmoe_plus.selection", options.selection, {"global", "rank"});
  const auto check = [&](std::string_view key, double value, bool is_right, std::string_view rule) {
    if (is_right) return;  // NaN is never right
    problems.push_back(format("moe.locmoe_plus.{} = {}: must be {}", key, value, rule));
  };
  check_not_negative(problems, "locmoe_plus.temperature", options.temperature);
  check("theta", options.theta, options.theta >= 0 && options.theta <= 1, "0 to 1");
  check("rho_end", options.rho_end, options.rho_end > 0 && options.rho_end <= 1,
        "above 0 and at most 1");
  check("shift_begin", options.shift_begin, options.shift_begin >= 0 && options.shift_begin <= 1,
        "0 to 1");
  check("shift_end", options.shift_end,
        options.shift_end >= options.shift_begin && options.shift_end <= 1,
        format("moe.locmoe_plus.shift_begin = {} to 1", options.shift_begin));
  check("decay", options.decay, options.decay >= 0 && options.decay < 1, "0 or more and below 1");
  check("min_capacity_factor", options.min_capacity_factor,
        options.min_capacity_factor >= 0 && std::isfinite(options.min_capacity_factor),
        "0 or more");
  if (config.capacity_factor > 0 && options.min_capacity_factor > config.capacity_factor) {
    problems.push_back(format(
        "moe.locmoe_plus.min_capacity_factor = {} is above moe.router.capacity_factor = {}: an "
        "expert would have to take more than it may",
        options.min_capacity_factor, config.capacity_factor));
  }
  return problems;
}

}  // namespace locus::moe
