// Properties of the specification of EvoMoE and its baselines, by number, that need a whole layer
// or several routers. Where the others are:
//
//   1-9, 13   DenseToSparseRouter, by number          16-17  Auction
//   11, 12    Spawn, by number                        18     BaseLayerRouter, RouterConformance
//   15        below, and RouterConformance            24, 25 StableMoeRouter
//   26        RowRoutes, Exchanges.HierarchicalChangesNoBit
//
// Of 27 the routers kTop1 and SAM are not ours.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <numeric>

#include "locus/base/format.h"
#include "locus/moe/moe_layer.h"
#include "tests/moe/router_helpers.h"
#include "tests/support/tensors.h"

namespace locus::moe {
namespace {

using test::distance;
using test::random_leaf;
using test::random_tensor;

constexpr int64_t kExperts = 4, kHidden = 6, kTokens = 24;

// In float64, with experts, gates and biases that are far from 0.
std::shared_ptr<MoeLayer> make(const std::string& router, const std::string& options = "",
                               double capacity_factor = 0) {
  MoeConfig config;
  config.num_experts = kExperts;
  config.intermediate_size = 5;
  config.router = config_of(router);
  config.router.top_k = router == "gshard" ? 2 : 1;
  config.router.capacity_factor = capacity_factor;
  auto layer = std::make_shared<MoeLayer>(config, context_of(kExperts, kHidden),
                                          options_of(router, options), ops::Activation::kSwiglu,
                                          /*with_bias=*/true);
  const at::NoGradGuard no_grad;
  uint64_t seed = 60;
  for (at::Tensor& parameter : layer->parameters()) {
    parameter.set_data(random_tensor(parameter.sizes(), seed++) * 0.7);
  }
  return layer;
}

RouterConfig top_1(const std::string& router) {
  RouterConfig config = config_of(router);
  config.top_k = 1;
  return config;
}

at::Tensor expert_output(const MoeLayer& layer, int64_t expert, const at::Tensor& x_TD) {
  const auto named = layer.named_parameters();
  const auto of = [&](const char* name) { return named[format("experts.{}", name)][expert]; };
  const auto parts = at::linear(x_TD, of("up_proj"), of("up_proj_bias")).chunk(2, 1);
  return at::linear(at::silu(parts[0]) * parts[1], of("down_proj"), of("down_proj_bias"));
}

std::string soft_gate(double temperature) {
  return format(
      "max_temperature = {:f}\nmin_temperature = 0.000001\nanneal_schedule = \"none\"\n"
      "sparse_steps = -1\n",
      temperature);
}

TEST(GrowingProperties, Property10ComputesWhatADenseLayerWithAMaskComputes) {
  for (const double temperature : {3.0, 0.5, 0.2}) {
    const auto layer = make("dense_to_sparse", soft_gate(temperature));
    const at::Tensor x = random_leaf({kTokens, kHidden}, 1);
    const MoeOutput out = layer->forward(x, tokens_of(kTokens));
    const Routing routing = layer->router().route(x, tokens_of(kTokens), &out.assignment);
    const Assignment& pairs = out.assignment;
    EXPECT_LT(pairs.token_N.numel(), temperature < 1 ? kTokens * kExperts : 1 << 20);
    const at::Tensor mask_TE = at::zeros({kTokens, kExperts}, at::kDouble)
                                   .index_put({pairs.token_N, pairs.expert_N}, routing.weight_N);
    at::Tensor dense = at::zeros({kTokens, kHidden}, at::kDouble);
    for (int64_t e = 0; e < kExperts; ++e) {
      dense = dense + mask_TE.select(1, e).unsqueeze(1) * expert_output(*layer, e, x);
    }
    EXPECT_LT(distance(out.y_TD, dense), 1e-12) << temperature;
    const at::Tensor probe = random_tensor({kTokens, kHidden}, 2);
    std::vector<at::Tensor> leaves = layer->parameters();
    leaves.push_back(x);
    const auto sparse_grads = torch::autograd::grad({(out.y_TD * probe).sum()}, leaves, {}, true,
                                                    false, /*allow_unused=*/true);
    const auto dense_grads = torch::autograd::grad({(dense * probe).sum()}, leaves, {}, true, false,
                                                   /*allow_unused=*/true);
    for (size_t i = 0; i < leaves.size(); ++i) {
      EXPECT_LT(distance(sparse_grads[i], dense_grads[i]), 1e-12) << i;
    }
  }
}

TEST(GrowingProperties, Property10GivesExpertsOfWeightZeroNoGradient) {
  const auto layer = make("dense_to_sparse", soft_gate(1e-6));
  const MoeOutput out = layer->forward(random_tensor({1, kHidden}, 3), tokens_of(1));
  ASSERT_EQ(out.assignment.expert_N.numel(), 1);
  const int64_t chosen = out.assignment.expert_N.item<int64_t>();
  out.y_TD.sum().backward();
  for (const auto& item : layer->named_parameters()) {
    if (item.key().find("experts.") == std::string::npos) continue;
    for (int64_t e = 0; e < kExperts; ++e) {
      EXPECT_EQ(item.value().grad()[e].ne(0).any().item<bool>(), e == chosen) << item.key() << e;
    }
  }
}

// Work and rows that are sent follow from the number of pairs, which at one expert a token is that
// of Switch without a limit: a pair a token.
TEST(GrowingProperties, Property14HasAsManyPairsAsTheGateLeaves) {
  const at::Tensor x = random_tensor({kTokens, kHidden}, 4);
  int64_t before = kTokens * kExperts + 1;
  for (const double temperature : {5.0, 0.5, 0.1, 1e-6}) {
    const auto layer = make("dense_to_sparse", soft_gate(temperature));
    const int64_t pairs = layer->forward(x, tokens_of(kTokens)).assignment.token_N.numel();
    EXPECT_LT(pairs, before) << temperature;
    before = pairs;
  }
  EXPECT_EQ(before, make("switch")->forward(x, tokens_of(kTokens)).assignment.token_N.numel());
}

TEST(GrowingProperties, Property15DropsNobodyInEvaluation) {
  const auto layer = make("switch", "", 0.25);
  const at::Tensor x = random_tensor({1, kHidden}, 5).expand({kTokens, kHidden}).contiguous();
  const auto zero_rows = [&] {
    const MoeOutput out = layer->forward(x, tokens_of(kTokens));
    return out.y_TD.eq(0).all(1).sum().item<int64_t>();
  };
  EXPECT_EQ(zero_rows(), kTokens - 2)
      << "all want one expert, which has room for a quarter of an even share";
  layer->eval();
  EXPECT_EQ(zero_rows(), 0);
}

TEST(GrowingProperties, Property20HashesAnIdToOneExpertInEveryLayerPlaceAndStep) {
  RouterContext context = context_of(kExperts, kHidden);
  context.token_frequency.resize(97);
  std::iota(context.token_frequency.begin(), context.token_frequency.end(), 1);
  std::vector<std::vector<int64_t>> experts;
  for (const int64_t layer : {0, 7}) {
    context.layer = layer;
    const auto router =
        make_router(top_1("hash"), context, options_of("hash", "table = \"balanced\""));
    for (const int64_t step : {0, 5}) {
      TokenContext tokens = tokens_of(kTokens);
      tokens.step = step;
      const Routing routing = router->route(random_input(kTokens, kHidden, 9), tokens);
      experts.push_back(list_of(routing.assignment.expert_N));
      EXPECT_FALSE(routing.weight_N.requires_grad()) << "no gradient reaches the choice";
    }
  }
  for (const auto& one : experts) EXPECT_EQ(one, experts.front());
}

TEST(GrowingProperties, Property20LoadsDoNotDependOnWhichIdIsFrequent) {
  const auto loads = [](const std::vector<int64_t>& frequency) {
    RouterContext context = context_of(kExperts, kHidden);
    context.vocab_size = std::ssize(frequency);
    context.token_frequency = frequency;
    const auto router =
        make_router(top_1("hash"), context, options_of("hash", "table = \"balanced\""));
    TokenContext tokens = tokens_of(std::ssize(frequency));
    tokens.id_T = at::arange(std::ssize(frequency), at::kLong);
    const auto expert = list_of(
        router->route(random_input(std::ssize(frequency), kHidden, 1), tokens).assignment.expert_N);
    std::vector<int64_t> load(kExperts);
    for (size_t id = 0; id < frequency.size(); ++id) {
      load[static_cast<size_t>(expert[id])] += frequency[id];
    }
    std::sort(load.begin(), load.end());
    return load;
  };
  const std::vector<int64_t> frequency{50, 20, 10, 8, 6, 3, 2, 1};
  const auto want = loads(frequency);
  EXPECT_LE(want.back(), 25 + 50) << "the mean, and the largest count";
  std::vector<int64_t> turned = frequency;
  std::rotate(turned.begin(), turned.begin() + 3, turned.end());
  EXPECT_EQ(loads(turned), want);
  std::reverse(turned.begin(), turned.end());
  EXPECT_EQ(loads(turned), want);
}

// Tokens of another expert may come between: who finds its expert full is decided among its own
// tokens.
TEST(GrowingProperties, Property21DropsByTheOrderAmongTheTokensOfAnExpert) {
  const auto router = [] {
    RouterConfig config = top_1("switch");
    config.drop_policy = "position";
    config.capacity_factor = 0.5;  // eight tokens, two experts: two each
    return identity_router(config, 2);
  };
  // Tokens 0-4 want expert 0, 5-7 expert 1; then they are mixed, each group in its order.
  const at::Tensor x = tensor_of({{3, 0}, {4, 0}, {5, 0}, {6, 0}, {7, 0}, {0, 3}, {0, 4}, {0, 5}});
  const std::vector<int64_t> mixed{5, 0, 6, 1, 2, 7, 3, 4};
  const auto kept = [&](const at::Tensor& rows, const std::vector<int64_t>& original) {
    std::vector<int64_t> tokens;
    for (const int64_t t : list_of(router()->route(rows, tokens_of(8)).assignment.token_N)) {
      tokens.push_back(original[static_cast<size_t>(t)]);
    }
    std::sort(tokens.begin(), tokens.end());
    return tokens;
  };
  EXPECT_EQ(kept(x, {0, 1, 2, 3, 4, 5, 6, 7}), (std::vector<int64_t>{0, 1, 5, 6}));
  EXPECT_EQ(kept(x.index_select(0, test::integers(mixed)), mixed),
            (std::vector<int64_t>{0, 1, 5, 6}));
}

TEST(GrowingProperties, Property22GivesDroppedTokensZeroAndNoGradient) {
  const auto layer = make("switch", "", 0.25);
  const at::Tensor x = random_leaf({kTokens, kHidden}, 6);
  const MoeOutput out = layer->forward(x, tokens_of(kTokens));
  out.y_TD.sum().backward();
  const at::Tensor is_kept_T =
      at::zeros({kTokens}, at::kBool).index_fill(0, out.assignment.token_N, true);
  EXPECT_LT(is_kept_T.sum().item<int64_t>(), kTokens);
  EXPECT_TRUE(at::equal(out.y_TD.ne(0).any(1), is_kept_T));
  EXPECT_TRUE(at::equal(x.grad().ne(0).any(1), is_kept_T));
}

TEST(GrowingProperties, Property23WeighsTheFirstExpertByOneWhereTheSecondIsFull) {
  for (const char* when : {"before", "after"}) {
    const auto layer =
        make("gshard", format("normalize = \"{}\"\nrandom_second = false\n", when), 0.5);
    const Routing routing =
        layer->router().route(random_tensor({kTokens, kHidden}, 7), tokens_of(kTokens), nullptr);
    const auto tokens = list_of(routing.assignment.token_N);
    const at::Tensor sum_T =
        at::zeros({kTokens}, at::kDouble)
            .index_add(0, routing.assignment.token_N, routing.weight_N.to(at::kDouble).detach());
    std::vector<int64_t> experts_of(kTokens);
    for (const int64_t t : tokens) ++experts_of[static_cast<size_t>(t)];
    int64_t alone = 0;
    for (int64_t t = 0; t < kTokens; ++t) {
      const double sum = sum_T[t].item<double>();
      const int64_t experts = experts_of[static_cast<size_t>(t)];
      if (experts == 2 || (experts == 1 && when == std::string("after"))) {
        EXPECT_NEAR(sum, 1, 1e-6) << when << " token " << t;
      }
      if (experts == 1 && when == std::string("before")) {
        EXPECT_LT(sum, 1) << "what the other one would have had is gone";
      }
      alone += experts == 1;
    }
    EXPECT_GT(alone, 0) << when;
  }
}

}  // namespace
}  // namespace locus::moe
