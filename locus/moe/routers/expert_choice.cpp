// Expert choice: experts pick tokens, not tokens experts (Zhou et al., 2022, arXiv 2202.09368).
//
// p = softmax over the experts; each expert takes its ceil(factor * T / E) tokens of highest p,
// weight p. The load is even by construction: no balance loss. A token may get any number of
// experts, also none.
//
// The choice compares a token with later tokens of its sequence, which generation cannot do. So
// each expert keeps a running mean of the lowest p that it admitted in training (`threshold`), and
// evaluation and generation admit a token where p >= threshold: a rule that looks at this token
// alone. That is ours; the paper evaluates with the training rule, as
// set_evaluate_with_training_rule(true) does here.
//
// The choice is over the whole micro-batch. capacity_factor = 0 stands for the paper's 2.
//
// T tokens, D hidden size, E experts, C capacity, N assignments.
#include <ATen/ATen.h>

#include <algorithm>

#include "locus/base/error.h"
#include "locus/moe/balance_loss.h"
#include "locus/moe/router.h"
#include "locus/moe/router_math.h"

namespace locus::moe {
namespace {

constexpr double kDefaultFactor = 2.0;

struct ExpertChoiceOptions {
  double threshold_decay = 0.95;

  template <class V>
  void visit_fields(V& v) {
    v("threshold_decay", threshold_decay,
      "share of its old value that an expert's threshold keeps at each micro-batch");
  }
};

class ExpertChoiceRouter final : public Router {
 public:
  ExpertChoiceRouter(const RouterConfig& config, const RouterContext& context,
                     const ExpertChoiceOptions& options)
      : Router(config, context), options_(options) {
    weight_ED_ = register_parameter("weight", init_gate_weight(context));
    // Before the first update: the mean of p.
    threshold_E_ = register_buffer(
        "threshold",
        at::full({context.num_experts}, 1.0 / static_cast<double>(context.num_experts)));
    num_updates_ = register_buffer("num_updates", at::zeros({}, at::kLong));
  }

  Routing route(const at::Tensor& x_TD, const TokenContext& tokens,
                const Assignment* replay) override {
    const at::Tensor logits_TE = gate_logits(x_TD, weight_ED_);
    const at::Tensor probability_TE = at::softmax(logits_TE, 1);

    Routing routing;
    if (replay) {
      routing.assignment = *replay;
    } else {
      const at::NoGradGuard no_grad;
      const bool training_rule = is_training() || evaluate_with_training_rule_;
      routing.assignment =
          training_rule ? experts_choose(probability_TE, tokens) : above_threshold(probability_TE);
      if (is_training()) {
        add_requested(requested_E, routing.assignment.expert_N, context_.num_experts);
      }
    }
    routing.num_requested = routing.assignment.token_N.numel();
    routing.weight_N = gather_scores(probability_TE, routing.assignment);
    routing.probability_TE = probability_TE.detach().to(at::kFloat);
    if (is_training())
      add_losses(config_,
                 {logits_TE, probability_TE, {}, {}, 1, context_.pool, is_observed && !replay},
                 routing);
    return routing;
  }

  void on_step(int64_t /*step*/, int64_t /*total_steps*/) override { lowest_admitted_.clear(); }

  // The threshold moves with the steps that count: a skipped one leaves no trace.
  void on_step_end(const at::Tensor& /*requested_E*/) override {
    for (const at::Tensor& lowest_E : lowest_admitted_) move_threshold(lowest_E);
    lowest_admitted_.clear();
  }

  bool is_causal_in_training() const override { return false; }
  void set_evaluate_with_training_rule(bool value) override {
    evaluate_with_training_rule_ = value;
  }

 private:
  // Each expert chooses among the tokens of all ranks; a rank keeps its own of the chosen.
  Assignment experts_choose(const at::Tensor& own_probability_TE, const TokenContext& tokens) {
    const int64_t num_own = own_probability_TE.size(0);
    PooledRows rows(context_.pool, num_own,
                    tokens.is_placed ? tokens.global_index_T : at::Tensor());
    const at::Tensor probability_TE = rows.gather(own_probability_TE);
    const auto [num_tokens, num_experts] =
        std::pair(probability_TE.size(0), probability_TE.size(1));
    const double factor = config_.capacity_factor > 0 ? config_.capacity_factor : kDefaultFactor;
    const int64_t capacity = expert_capacity(factor, num_tokens, 1, num_experts);
    const at::TensorOptions indices = probability_TE.options().dtype(at::kLong);
    if (capacity == 0) return {at::empty({0}, indices), at::empty({0}, indices), {}, {}};

    const at::Tensor score_ET = probability_TE.t().contiguous();
    const at::Tensor token_EC = top_k(score_ET, capacity);
    if (is_training()) {
      lowest_admitted_.push_back(score_ET.gather(1, token_EC.slice(1, capacity - 1)).squeeze(1));
    }
    const at::Tensor expert_EC = at::arange(num_experts, indices).unsqueeze(1).expand_as(token_EC);
    const at::Tensor own_EC = rows.number_on_rank(token_EC);
    const Assignment chosen{own_EC.reshape(-1), expert_EC.reshape(-1), {}, {}};
    if (num_tokens == num_own) return chosen;
    const at::Tensor is_own_EC = own_EC.ge(0).logical_and_(own_EC.lt(num_own));
    return keep_where(chosen, is_own_EC.reshape(-1));
  }

  Assignment above_threshold(const at::Tensor& probability_TE) const {
    const at::Tensor pair_N2 = at::nonzero(probability_TE >= threshold_E_);
    return {pair_N2.select(1, 0).contiguous(), pair_N2.select(1, 1).contiguous(), {}, {}};
  }

  // A plain mean over the first micro-batches, an exponential one from then on. NaN leaves no
  // trace.
  void move_threshold(const at::Tensor& lowest_admitted_E) {
    const at::Tensor rate = num_updates_.to(threshold_E_.scalar_type())
                                .add(1)
                                .reciprocal()
                                .clamp_min(1 - options_.threshold_decay);
    const at::Tensor lowest_E = lowest_admitted_E.to(threshold_E_.scalar_type());
    const at::Tensor usable_E = at::where(lowest_E.isnan(), threshold_E_, lowest_E);
    threshold_E_ += rate * (usable_E - threshold_E_);
    num_updates_ += 1;
  }

  const ExpertChoiceOptions options_;
  at::Tensor weight_ED_;
  at::Tensor threshold_E_;
  at::Tensor num_updates_;
  std::vector<at::Tensor> lowest_admitted_;  // of this step's micro-batches
  bool evaluate_with_training_rule_ = false;
};

}  // namespace

std::shared_ptr<Router> make_expert_choice_router(const RouterConfig& config,
                                                  const RouterContext& context,
                                                  const OptionSet& options) {
  return std::make_shared<ExpertChoiceRouter>(config, context, options.as<ExpertChoiceOptions>());
}

OptionSet expert_choice_options() { return OptionSet::of<ExpertChoiceOptions>(); }

std::vector<std::string> validate_expert_choice(const RouterConfig& config, int64_t num_experts,
                                                const OptionSet& options) {
  std::vector<std::string> problems = common_problems(config, num_experts);
  if (config.drop_policy == "random") {
    problems.emplace_back(
        "moe.router.drop_policy = \"random\": expert_choice drops by score; remove the setting");
  }
  if (config.capacity_factor > static_cast<double>(num_experts)) {
    problems.push_back(format(
        "moe.router.capacity_factor = {}: experts that choose can take each token once, so at most "
        "moe.num_experts = {}",
        config.capacity_factor, num_experts));
  }
  const double decay = options.as<ExpertChoiceOptions>().threshold_decay;
  if (!(decay >= 0 && decay < 1)) {
    problems.push_back(
        format("moe.expert_choice.threshold_decay = {}: must be 0 or more and below 1", decay));
  }
  return problems;
}

}  // namespace locus::moe
