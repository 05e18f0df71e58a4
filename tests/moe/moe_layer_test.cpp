#include "locus/moe/moe_layer.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/moe/router_helpers.h"
#include "tests/reference/feed_forward_reference.h"
#include "tests/support/tensors.h"

namespace locus::moe {
namespace {

using test::distance;
using test::integers;
using test::random_tensor;

constexpr int64_t kExperts = 5, kHidden = 6, kTokens = 12;

struct Shape {
  bool shared = true, gate = true, bias = true;
  std::string scope = "all";
};

std::shared_ptr<MoeLayer> make(const std::string& router, const Shape& shape = {},
                               const std::string& options = "", double capacity_factor = 0) {
  MoeConfig config;
  config.num_experts = kExperts;
  config.intermediate_size = 4;
  config.shared_expert_intermediate_size = shape.shared ? 3 : 0;
  config.shared_expert_gate = shape.gate;
  config.shared_expert_scope = shape.scope;
  config.router = config_of(router);
  config.router.capacity_factor = capacity_factor;
  auto layer =
      std::make_shared<MoeLayer>(config, context_of(kExperts, kHidden), options_of(router, options),
                                 ops::Activation::kSwiglu, shape.bias);
  const at::NoGradGuard no_grad;
  uint64_t seed = 40;
  for (at::Tensor& parameter : layer->parameters()) {
    parameter.set_data(random_tensor(parameter.sizes(), seed++) * 0.7);  // float64
  }
  return layer;
}

reference::FeedForward network(const MoeLayer& layer, const std::string& name, int64_t expert) {
  const auto named = layer.named_parameters();
  const auto get = [&](const std::string& part) {
    return expert < 0 ? named[name + "." + part] : named[name + "." + part][expert];
  };
  return {test::matrix_of(get("up_proj")), test::row_of(get("up_proj_bias")),
          test::matrix_of(get("down_proj")), test::row_of(get("down_proj_bias"))};
}

// Sum over the pairs of weight * expert(x), plus sigmoid(gate x) * shared expert(x).
reference::Matrix by_loops(const MoeLayer& layer, const at::Tensor& x, const Routing& routing) {
  const reference::Matrix rows = test::matrix_of(x);
  const reference::Row gate = test::row_of(layer.named_parameters()["shared_expert_gate.weight"]);
  const auto tokens = list_of(routing.assignment.token_N),
             experts = list_of(routing.assignment.expert_N);
  const reference::Row weights = test::row_of(routing.weight_N);
  reference::Matrix out;
  for (const reference::Row& row : rows) {
    out.push_back(reference::feed_forward(network(layer, "shared_expert", -1), row, "swiglu"));
    double open = 0;
    for (size_t d = 0; d < row.size(); ++d) open += gate[d] * row[d];
    for (double& value : out.back()) value /= 1 + std::exp(-open);
  }
  for (size_t n = 0; n < tokens.size(); ++n) {
    const auto t = static_cast<size_t>(tokens[n]);
    const auto y =
        reference::feed_forward(network(layer, "experts", experts[n]), rows[t], "swiglu");
    for (size_t d = 0; d < y.size(); ++d) out[t][d] += weights[n] * y[d];
  }
  return out;
}

class MoeLayerWithRouter : public testing::TestWithParam<std::string> {};

TEST_P(MoeLayerWithRouter, SumsWeightedExpertsAndTheSharedOne) {
  for (const bool training : {true, false}) {
    for (const double capacity_factor : {0.0, 0.5}) {
      const auto layer = make(GetParam(), {}, "", capacity_factor);
      layer->train(training);
      const at::Tensor x = random_tensor({kTokens, kHidden}, 1);
      const MoeOutput out = layer->forward(x, tokens_of(kTokens));
      const Routing routing = layer->router().route(x, tokens_of(kTokens), &out.assignment);
      EXPECT_LT(distance(out.y_TD, by_loops(*layer, x, routing)), 1e-6);
    }
  }
}

TEST_P(MoeLayerWithRouter, ReplaysItsRoutingWithoutStatistics) {
  const auto layer = make(GetParam());
  const at::Tensor x = random_tensor({kTokens, kHidden}, 2);
  layer->start_stats(0);
  const MoeOutput first = layer->forward(x, tokens_of(kTokens));
  const MoeOutput second = layer->forward(x, tokens_of(kTokens), &first.assignment);
  EXPECT_TRUE(at::equal(first.y_TD, second.y_TD));
  EXPECT_TRUE(at::equal(first.aux_loss, second.aux_loss));
  const RouterStats stats = layer->take_stats();
  EXPECT_EQ(stats.num_batches, 1);
  EXPECT_EQ(stats.num_tokens, kTokens);
  layer->forward(x, tokens_of(kTokens));
  EXPECT_EQ(layer->take_stats().num_batches, 0) << "nobody asked for these";
}

// Of all parameters and the input, at the experts of a first pass.
void expect_gradients_of_finite_differences(const std::shared_ptr<MoeLayer>& layer) {
  const at::Tensor x = test::random_leaf({kTokens, kHidden}, 3),
                   probe = random_tensor({kTokens, kHidden}, 4);
  const Assignment routed = layer->forward(x, tokens_of(kTokens)).assignment;
  std::vector<at::Tensor> leaves = layer->parameters();
  leaves.push_back(x);
  test::expect_gradients(
      leaves,
      [&] {
        const MoeOutput out = layer->forward(x, tokens_of(kTokens), &routed);
        return (out.y_TD * probe).sum() + 7 * out.aux_loss;
      },
      1e-6, 30);
}

TEST_P(MoeLayerWithRouter, HasTheGradientsOfTheFiniteDifferences) {
  expect_gradients_of_finite_differences(make(GetParam()));
}

TEST_P(MoeLayerWithRouter, TakesNoTokens) {
  const auto layer = make(GetParam());
  layer->start_stats(0);
  const at::Tensor x = test::random_leaf({0, kHidden}, 5);
  const MoeOutput out = layer->forward(x, tokens_of(0));
  EXPECT_EQ(out.y_TD.sizes(), (std::vector<int64_t>{0, kHidden}));
  (out.y_TD.sum() + out.aux_loss).backward();
  for (const at::Tensor& parameter : layer->parameters()) {
    if (parameter.grad().defined()) {
      EXPECT_EQ(parameter.grad().abs().sum().item<double>(), 0);
    }
  }
}

TEST_P(MoeLayerWithRouter, ComputesInTheTypeOfItsInput) {
  const auto layer = make(GetParam());
  for (at::Tensor& parameter : layer->parameters()) parameter.set_data(parameter.to(at::kFloat));
  const at::Tensor x = random_tensor({kTokens, kHidden}, 6, at::kBFloat16);
  const MoeOutput out = layer->forward(x, tokens_of(kTokens));
  EXPECT_EQ(out.y_TD.scalar_type(), at::kBFloat16);
  EXPECT_EQ(out.aux_loss.scalar_type(), at::kFloat);
  EXPECT_EQ(out.aux_loss.dim(), 0);
}

INSTANTIATE_TEST_SUITE_P(Moe, MoeLayerWithRouter, testing::ValuesIn(router_names()),
                         [](const auto& instance) { return instance.param; });

TEST(MoeLayer, GivesDroppedTokensZeroWithoutASharedExpert) {
  // Switch with room for one token an expert; all ask for expert 0.
  const auto layer = make("switch", {false, false, true}, "jitter = 0", 1.0 / 3);
  const at::NoGradGuard no_grad;
  layer->named_parameters()["router.weight"].zero_()[0][0] = 1;
  at::Tensor x = random_tensor({kTokens, kHidden}, 7);
  x.select(1, 0).fill_(1);
  x[8][0] = 2;  // the most certain
  layer->start_stats(0);
  const at::Tensor y = layer->forward(x, tokens_of(kTokens)).y_TD;
  for (int64_t t = 0; t < kTokens; ++t) {
    EXPECT_EQ(y[t].abs().max().item<double>() > 0, t == 8) << "token " << t;
  }
  const RouterStats stats = layer->take_stats();
  EXPECT_EQ(stats.tokens_per_expert, (std::vector<int64_t>{1, 0, 0, 0, 0}));
  EXPECT_EQ(stats.num_unrouted, 11);
  EXPECT_NEAR(stats.dropped_share(), 11.0 / 12, 1e-12);
}

TEST(MoeLayer, LetsTheSharedExpertComputeWhatNobodyTookAlone) {
  const auto all = make("switch", {}, "jitter = 0", 0.5),
             unclaimed = make("switch", {.scope = "unclaimed"}, "jitter = 0", 0.5),
             none = make("switch", {.shared = false, .gate = false}, "jitter = 0", 0.5);
  const at::NoGradGuard no_grad;
  for (auto& parameter : none->named_parameters()) {
    parameter.value().set_data(all->named_parameters()[parameter.key()]);
  }
  const at::Tensor x = random_tensor({kTokens, kHidden}, 8);
  const MoeOutput with_all = all->forward(x, tokens_of(kTokens)),
                  with_none = none->forward(x, tokens_of(kTokens));
  const at::Tensor is_taken_T1 =
      at::zeros({kTokens, 1}, at::kBool).index_fill(0, with_all.assignment.token_N, true);
  const auto num_taken = is_taken_T1.sum().item<int64_t>();
  ASSERT_TRUE(num_taken > 0 && num_taken < kTokens);
  EXPECT_TRUE(at::allclose(unclaimed->forward(x, tokens_of(kTokens)).y_TD,
                           at::where(is_taken_T1, with_none.y_TD, with_all.y_TD)));
}

TEST(MoeLayer, HasTheGradientsOfASharedExpertOfTheUnclaimed) {
  expect_gradients_of_finite_differences(make("switch", {.scope = "unclaimed"}, "jitter = 0", 0.5));
}

// Switch drops the least certain in training, and nobody in evaluation.
TEST(MoeLayer, CountsTheTokensThatTheCausalRuleGivesOtherExperts) {
  const auto layer = make("switch", {}, "jitter = 0", 0.5);
  layer->eval();
  layer->evaluate_with_training_rule(true);
  const at::Tensor x = random_tensor({kTokens, kHidden}, 8);
  const MoeOutput out = layer->forward(x, tokens_of(kTokens));
  const RuleAgreement agreement = layer->take_agreement();
  EXPECT_EQ(agreement.tokens, kTokens);
  EXPECT_EQ(agreement.equal, out.assignment.token_N.numel());
  EXPECT_LT(agreement.equal, kTokens);
  EXPECT_EQ(layer->take_agreement().tokens, 0);
  // The comparison leaves the rule as it was.
  EXPECT_TRUE(at::equal(layer->forward(x, tokens_of(kTokens)).y_TD, out.y_TD));
}

TEST(MoeLayer, HasNoGateWithoutASharedExpert) {
  EXPECT_EQ(make("top_k", {false, true, false})->named_parameters().size(), 3u);
  EXPECT_EQ(make("top_k", {true, true, false})->named_parameters().size(), 6u);
}

TEST(LocalDispatcher, SortsRowsByExpertAndPutsThemBack) {
  Routing routing;
  routing.assignment = {integers({0, 0, 2, 3}), integers({2, 0, 2, 0}), {}, {}};
  routing.weight_N = at::tensor({0.5, 0.25, 1.0, 2.0}).to(at::kFloat);
  const at::Tensor x = at::arange(4, at::kFloat).unsqueeze(1) + 1;
  // Expert e multiplies by 10 (e + 1): gelu is the identity for numbers this large.
  Experts experts(3, 1, 1, ops::Activation::kGelu, false, "loop");
  {
    const at::NoGradGuard no_grad;
    experts.weights().up_EUD.fill_(1000);
    experts.weights().down_EDF.copy_(at::tensor({0.01, 0.02, 0.03}).view({3, 1, 1}));
  }
  const auto dispatcher = make_local_dispatcher(3);
  const at::Tensor y = dispatcher->dispatch(x, routing)->combine(experts);
  const reference::Row expected{0.25 * 10 + 0.5 * 30, 0, 30 * 3, 2 * 10 * 4};
  for (size_t t = 0; t < expected.size(); ++t) {
    EXPECT_NEAR(test::row_of(y)[t], expected[t], 1e-4) << "token " << t;
  }
}

}  // namespace
}  // namespace locus::moe
