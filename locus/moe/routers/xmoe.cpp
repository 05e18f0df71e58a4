// X-MoE: tokens and experts meet on a small sphere, by cosine (Chi et al., 2022, arXiv 2204.09179).
//
//   z = cos(P x, e) / temperature      P projects to 16 dimensions, e: one embedding an expert
//
// The score of a large linear gate draws hidden states towards the experts' rows, until they
// collapse; a small normalised space of its own leaves them room. The temperature is learned.
//
// As in torchscale's code the weight is the softmax probability of the chosen expert, top_k = 1.
// Where we differ from that code: the token's side is normalised, too, as the paper has it
// (normalize_tokens = false is the code), and expert embeddings have length 1, not 1.5: the
// temperature makes up for it.
//
// T tokens, D hidden size, E experts, C dimensions of the small space, N assignments.
#include <ATen/ATen.h>

#include <cmath>

#include "locus/base/error.h"
#include "locus/base/random.h"
#include "locus/moe/balance_loss.h"
#include "locus/moe/router.h"
#include "locus/moe/router_math.h"
#include "locus/ops/keyed_random.h"
#include "locus/ops/linear.h"

namespace locus::moe {
namespace {

constexpr int64_t kRoutingDim = 16;  // as in torchscale's code

struct XmoeOptions {
  double temperature = 0.3;
  bool normalize_tokens = true;

  template <class V>
  void visit_fields(V& v) {
    v("temperature", temperature, "that the scores are divided by at first; it is learned");
    v("normalize_tokens", normalize_tokens, "cosines; false: only the experts have length 1");
  }
};

at::Tensor rows_of_length_1(const at::Tensor& x) {
  return x / x.norm(2, {1}, /*keepdim=*/true).clamp_min(1e-12);
}

class XmoeRouter final : public Router {
 public:
  XmoeRouter(const RouterConfig& config, const RouterContext& context, const XmoeOptions& options)
      : Router(config, context), options_(options) {
    proj_CD_ = register_parameter(
        "proj", drawn({kRoutingDim, context.hidden_size}, context.init_std, "xmoe.proj"));
    embedding_EC_ = register_parameter(
        "embedding", drawn({context.num_experts, kRoutingDim}, 1.0, "xmoe.embedding"));
    log_temperature_ = register_parameter("log_temperature",
                                          at::full({1}, std::log(options.temperature), at::kFloat));
  }

  Routing route(const at::Tensor& x_TD, const TokenContext& tokens,
                const Assignment* replay) override {
    const at::Tensor logits_TE = logits(x_TD);
    const at::Tensor probability_TE = at::softmax(logits_TE, 1);

    Routing routing;
    routing.assignment = replay ? *replay : choose(probability_TE, tokens);
    const at::Tensor& requested_TK = routing.assignment.requested_TK;
    routing.num_requested = requested_TK.numel();
    routing.weight_N = gather_scores(probability_TE, routing.assignment);
    routing.probability_TE = probability_TE.detach().to(at::kFloat);
    if (!is_training()) return routing;
    if (!replay) add_requested(requested_E, requested_TK, context_.num_experts);
    add_losses(config_,
               {logits_TE, probability_TE, requested_TK, requested_E, tokens.num_sequences,
                context_.pool, is_observed && !replay},
               routing);
    return routing;
  }

  bool is_causal_in_training() const override { return !drops_look_ahead(config_); }
  void set_evaluate_with_training_rule(bool value) override { limit_in_evaluation_ = value; }

 private:
  at::Tensor drawn(at::IntArrayRef shape, double std, std::string_view stream) const {
    const at::Tensor x = at::empty(shape, at::kFloat);
    ops::keyed_normal_(
        x, std,
        random_key({context_.seed, static_cast<uint64_t>(context_.layer), name_key(stream)}));
    return x;
  }

  at::Tensor logits(const at::Tensor& x_TD) const {
    const at::ScalarType type = compute_type(x_TD);
    const at::Tensor projected_TC = ops::linear(x_TD.to(type), proj_CD_.to(type), {});
    const at::Tensor token_TC =
        options_.normalize_tokens ? rows_of_length_1(projected_TC) : projected_TC;
    const at::Tensor expert_EC = rows_of_length_1(embedding_EC_.to(type));
    return ops::linear(token_TC, expert_EC, {}) / log_temperature_.to(type).exp();
  }

  Assignment choose(const at::Tensor& probability_TE, const TokenContext& tokens) const {
    const at::NoGradGuard no_grad;
    const Assignment requested = assign(top_k(probability_TE, config_.top_k));
    if (!(is_training() || limit_in_evaluation_)) return requested;
    return within_capacity_factor(config_, context_, tokens, requested,
                                  gather_scores(probability_TE, requested));
  }

  const XmoeOptions options_;
  at::Tensor proj_CD_, embedding_EC_, log_temperature_;
  bool limit_in_evaluation_ = false;
};

}  // namespace

std::shared_ptr<Router> make_xmoe_router(const RouterConfig& config, const RouterContext& context,
                                         const OptionSet& options) {
  return std::make_shared<XmoeRouter>(config, context, options.as<XmoeOptions>());
}

std::vector<RouterParameter> xmoe_parameters(const RouterSizes& sizes) {
  return {{"proj", {kRoutingDim, sizes.hidden_size}},
          {"embedding", {sizes.num_experts, kRoutingDim}},
          {"log_temperature", {1}}};
}

OptionSet xmoe_options() { return OptionSet::of<XmoeOptions>(); }

std::vector<std::string> validate_xmoe(const RouterConfig& config, int64_t num_experts,
                                       const OptionSet& option_set) {
  const auto& options = option_set.as<XmoeOptions>();
  std::vector<std::string> problems = common_problems(config, num_experts);
  check_top_k(problems, config, num_experts);
  if (!(options.temperature > 0) || !std::isfinite(options.temperature)) {
    problems.push_back(format("moe.xmoe.temperature = {}: must be above 0", options.temperature));
  }
  return problems;
}

}  // namespace locus::moe
