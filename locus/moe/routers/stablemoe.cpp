// StableMoE: learn where tokens go, then hold on to it (Dai et al., 2022, arXiv 2204.08396).
//
// Stage 1: a token goes to the expert of the highest score h . c, with the weight sigmoid(h . c). A
// balance loss pushes the scores of crowded experts down; and a light router, of its own token
// embedding and centroids alone, learns to foretell the expert (cross-entropy, no gradient into the
// scores). Stage 2: the light router decides and is frozen; the weight is still sigmoid(h . c), and
// goes on learning. Since it sees nothing but the token's id, stage 2 is a learned hash. Evaluation
// goes by the light router in both stages.
//
//   balance   sum_i (n_i - mean n) / mean n * sum of sigmoid(score) over the tokens of expert i
//
// Where we differ from the released code: the losses of all layers count (there, the last layer's
// alone); they are means over the tokens of all ranks; the light router is out of the optimiser's
// hands in stage 2 because it has no gradient (there momentum moves it on); the limit on an
// expert's tokens is moe.router.capacity_factor (there 2 on each rank), off unless set.
//
// T tokens, D hidden size, E experts, V vocabulary, C dimensions of the light router, N
// assignments.
#include <ATen/ATen.h>

#include <cmath>

#include "locus/base/error.h"
#include "locus/base/log.h"
#include "locus/base/random.h"
#include "locus/moe/balance_loss.h"
#include "locus/moe/router.h"
#include "locus/moe/router_math.h"
#include "locus/ops/keyed_random.h"

namespace locus::moe {
namespace {

constexpr int64_t kLightDim = 50;  // as in the released code

struct StableMoeOptions {
  double first_stage = 0.1;
  double balance_loss_coeff = 0.3;
  double distill_loss_coeff = 0.3;

  template <class V>
  void visit_fields(V& v) {
    v("first_stage", first_stage, "share of the steps in which the routing is learned");
    v("balance_loss_coeff", balance_loss_coeff,
      "weight of the balance loss, in place of moe.router.aux_loss_coeff");
    v("distill_loss_coeff", distill_loss_coeff, "weight of the light router's cross-entropy");
  }
};

class StableMoeRouter final : public Router {
 public:
  StableMoeRouter(const RouterConfig& config, const RouterContext& context,
                  const StableMoeOptions& options)
      : Router(config, context), options_(options) {
    weight_ED_ = register_parameter("weight", init_centroids(context, context.hidden_size));
    const at::Tensor embedding_VC = at::empty({context.vocab_size, kLightDim}, at::kFloat);
    ops::keyed_normal_(embedding_VC, context.init_std,
                       random_key({context.seed, static_cast<uint64_t>(context.layer),
                                   name_key("stablemoe.embedding")}));
    light_embedding_VC_ = register_parameter("light_embedding", embedding_VC);
    light_weight_EC_ = register_parameter("light_weight", init_centroids(context, kLightDim));
  }

  void on_step(int64_t step, int64_t total_steps) override {
    const int64_t num_steps = total_steps - context_.first_step;
    const auto first_stage = static_cast<int64_t>(
        std::ceil(options_.first_stage * static_cast<double>(num_steps) - 1e-9));
    const bool is_second = step - context_.first_step >= first_stage;
    if (is_second && !is_second_stage_ && num_foretold_ > 0) {
      log::info(
          "layer {}: the light router takes over; it foretold {:.1f}% of the last step's experts",
          context_.layer,
          100.0 * static_cast<double>(foretold_) / static_cast<double>(num_foretold_));
    }
    is_second_stage_ = is_second;
    foretold_ = num_foretold_ = 0;
  }

  Routing route(const at::Tensor& x_TD, const TokenContext& tokens,
                const Assignment* replay) override {
    LOCUS_CHECK(tokens.id_T.defined(), "stablemoe needs TokenContext::id_T");
    const at::Tensor score_TE = gate_logits(x_TD, weight_ED_);
    const at::Tensor weight_TE = at::sigmoid(score_TE);
    const bool learns = is_training() && !is_second_stage_;

    Routing routing;
    routing.assignment = replay ? *replay : choose(score_TE, weight_TE, tokens, learns);
    const at::Tensor& requested_T1 = routing.assignment.requested_TK;
    routing.num_requested = requested_T1.numel();
    routing.weight_N = gather_scores(weight_TE, routing.assignment);
    if (!is_training()) return routing;
    if (!replay) add_requested(requested_E, requested_T1, context_.num_experts);
    add_losses(config_, {score_TE, {}, {}, {}, 1, context_.pool, is_observed && !replay}, routing);
    if (learns) add_first_stage_losses(weight_TE, tokens, replay == nullptr, routing);
    return routing;
  }

  bool is_causal_in_training() const override { return !drops_look_ahead(config_); }
  void set_evaluate_with_training_rule(bool value) override { limit_in_evaluation_ = value; }

 private:
  at::Tensor light_scores(const TokenContext& tokens, at::ScalarType type) const {
    const at::Tensor token_TC = at::embedding(light_embedding_VC_, tokens.id_T);
    return at::matmul(token_TC.to(type), light_weight_EC_.to(type).t());
  }

  Assignment choose(const at::Tensor& score_TE, const at::Tensor& weight_TE,
                    const TokenContext& tokens, bool by_scores) const {
    const at::NoGradGuard no_grad;
    const Assignment requested =
        assign(top_k(by_scores ? score_TE : light_scores(tokens, score_TE.scalar_type()), 1));
    if (!(is_training() || limit_in_evaluation_)) return requested;
    return within_capacity_factor(config_, context_, tokens, requested,
                                  gather_scores(weight_TE, requested));
  }

  // Means over the tokens of all ranks: this rank's parts of them.
  void add_first_stage_losses(const at::Tensor& weight_TE, const TokenContext& tokens,
                              bool is_first_pass, Routing& routing) {
    Assignment& assignment = routing.assignment;
    const at::Tensor expert_T = assignment.requested_TK.squeeze(1);
    const auto num_tokens =
        static_cast<double>(std::max<int64_t>(1, expert_T.size(0) * context_.pool.num_ranks()));
    const auto add = [&routing](const at::Tensor& loss) {
      routing.aux_loss = routing.aux_loss.defined() ? routing.aux_loss + loss : loss;
    };
    if (!assignment.count_E.defined()) {
      assignment.count_E = context_.pool.sum(count_experts(expert_T, context_.num_experts));
    }
    const at::Tensor count_E = assignment.count_E.to(weight_TE.scalar_type());
    const at::Tensor excess_E = count_E / count_E.mean().clamp_min(1e-9) - 1;
    const at::Tensor own_weight_T = weight_TE.gather(1, assignment.requested_TK).squeeze(1);
    const at::Tensor balance = (excess_E.index_select(0, expert_T) * own_weight_T).sum() *
                               (options_.balance_loss_coeff / num_tokens);
    routing.balance_loss = balance.detach();
    add(balance);

    const at::Tensor light_TE = light_scores(tokens, weight_TE.scalar_type());
    const at::Tensor log_p_TE = at::log_softmax(light_TE, 1);
    add(-log_p_TE.gather(1, assignment.requested_TK).sum() *
        (options_.distill_loss_coeff / num_tokens));
    if (is_first_pass) {
      const at::NoGradGuard no_grad;
      num_foretold_ += expert_T.size(0);
      foretold_ += top_k(light_TE, 1).eq(assignment.requested_TK).sum().item<int64_t>();
    }
  }

  const StableMoeOptions options_;
  at::Tensor weight_ED_;
  at::Tensor light_embedding_VC_, light_weight_EC_;
  bool is_second_stage_ = false;
  int64_t foretold_ = 0, num_foretold_ = 0;  // of this rank's tokens of the step
  bool limit_in_evaluation_ = false;
};

}  // namespace

std::shared_ptr<Router> make_stablemoe_router(const RouterConfig& config,
                                              const RouterContext& context,
                                              const OptionSet& options) {
  LOCUS_CHECK(context.vocab_size > 0, "vocabulary of {}", context.vocab_size);
  return std::make_shared<StableMoeRouter>(config, context, options.as<StableMoeOptions>());
}

std::vector<RouterParameter> stablemoe_parameters(const RouterSizes& sizes) {
  return {{"weight", {sizes.num_experts, sizes.hidden_size}},
          {"light_embedding", {sizes.vocab_size, kLightDim}, /*is_table=*/true},
          {"light_weight", {sizes.num_experts, kLightDim}}};
}

OptionSet stablemoe_options() { return OptionSet::of<StableMoeOptions>(); }

std::vector<std::string> validate_stablemoe(const RouterConfig& config, int64_t num_experts,
                                            const OptionSet& option_set) {
  const auto& options = option_set.as<StableMoeOptions>();
  std::vector<std::string> problems = common_problems(config, num_experts);
  if (!(options.first_stage > 0 && options.first_stage <= 1)) {
    problems.push_back(format("moe.stablemoe.first_stage = {}: must be above 0 and at most 1",
                              options.first_stage));
  }
  check_not_negative(problems, "stablemoe.balance_loss_coeff", options.balance_loss_coeff);
  if (!(options.distill_loss_coeff > 0) || !std::isfinite(options.distill_loss_coeff)) {
    problems.push_back(
        format("moe.stablemoe.distill_loss_coeff = {}: must be above 0, or the light "
               "router learns nothing",
               options.distill_loss_coeff));
  }
  return problems;
}

}  // namespace locus::moe
