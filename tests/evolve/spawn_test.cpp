#include "locus/evolve/spawn.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <map>

#include "locus/base/toml.h"
#include "locus/comm/thread_ranks.h"
#include "locus/evolve/phases.h"
#include "locus/moe/router.h"
#include "locus/train/checkpoint.h"
#include "locus/train/train_step.h"

namespace locus::evolve {
namespace {

struct Grown {
  std::shared_ptr<model::Transformer> transformer;
  std::unique_ptr<train::Optimizer> optimizer;
};

Grown make(const std::string& router, int64_t num_experts,
           const comm::ParallelContext& parallel = comm::alone()) {
  model::TransformerConfig shape;
  shape.model.vocab_size = 31;
  shape.model.hidden_size = 32;
  shape.model.num_hidden_layers = 2;
  shape.model.num_attention_heads = 4;
  shape.model.intermediate_size = 48;
  shape.model.mlp_bias = true;
  shape.moe.num_experts = num_experts;
  shape.moe.intermediate_size = 48;
  shape.moe.router.type = router;
  shape.moe.router.top_k = 1;
  shape.router_options = moe::find_router(router).options();
  if (router == "dense_to_sparse") {
    read_toml("test", "noise = \"none\"\nthreshold = 0.0\n", {}, shape.router_options.fields());
  }
  shape.seed = 5;
  shape.parallel = parallel;
  Grown out;
  out.transformer = std::make_shared<model::Transformer>(shape);
  out.optimizer = train::make_optimizer({}, train::named_parameters(*out.transformer), parallel);
  return out;
}

model::TransformerInput input(uint64_t seed = 1) {
  model::TransformerInput in;
  const at::Tensor draw =
      at::rand({2, 12}, at::detail::createCPUGenerator(seed), at::TensorOptions(at::kFloat));
  in.input_ids_BS = (draw * 31).to(at::kLong);
  in.position_ids_BS = at::arange(12, at::kLong).expand({2, 12});
  return in;
}

// So that moments and counts are there.
void train_a_little(Grown& model, int64_t num_steps = 2) {
  for (int64_t step = 0; step < num_steps; ++step) {
    const auto out = model.transformer->forward(input(static_cast<uint64_t>(step) + 10));
    (out.hidden_TD.square().mean() + out.aux_loss).backward();
    model.optimizer->step(1e-2, 1);
    for (at::Tensor& parameter : model.transformer->parameters()) parameter.mutable_grad().reset();
  }
}

std::map<std::string, at::Tensor> named(const train::NamedTensors& tensors) {
  return {tensors.begin(), tensors.end()};
}

EvolveConfig diversified(const std::string& how, double ratio = 0.3) {
  EvolveConfig config;
  config.diversify = how;
  config.ratio = ratio;
  config.sigma = 0.2;
  return config;
}

constexpr const char* kUp = "layers.1.moe.experts.up_proj";
constexpr const char* kDense = "layers.1.mlp.up_proj";

TEST(Spawn, Property11LeavesTheOutputOfADenseGateWhereExpertsAreCopies) {
  Grown one = make("top_k", 0);
  train_a_little(one);
  Grown eight = make("dense_to_sparse", 8);
  spawn({*one.transformer, one.optimizer.get()}, *eight.transformer, *eight.optimizer,
        diversified("copy"));
  const at::Tensor before = one.transformer->forward(input()).hidden_TD;
  const at::Tensor after = eight.transformer->forward(input()).hidden_TD;
  EXPECT_LE((after - before).norm().item<double>() / before.norm().item<double>(), 1e-6);
}

// Switch's weight is not 1: the shock that the dense gate avoids.
TEST(Spawn, Property11ScalesTheOutputOfSwitchByItsProbability) {
  Grown one = make("top_k", 0);
  Grown eight = make("switch", 8);
  spawn({*one.transformer, nullptr}, *eight.transformer, *eight.optimizer, diversified("copy"));
  one.transformer->eval();
  eight.transformer->eval();
  const at::Tensor before = one.transformer->forward(input()).hidden_TD;
  const at::Tensor after = eight.transformer->forward(input()).hidden_TD;
  EXPECT_GT((after - before).norm().item<double>() / before.norm().item<double>(), 0.01);
}

TEST(Spawn, Property11TakesTheAskedShareOfWeightsAwayFromEachExpertAnotherWay) {
  Grown one = make("top_k", 0);
  Grown eight = make("switch", 8);
  const double ratio = 0.3;
  spawn({*one.transformer, nullptr}, *eight.transformer, *eight.optimizer,
        diversified("mask", ratio));
  const auto parameters = named(train::named_parameters(*eight.transformer));
  const at::Tensor old = named(train::named_parameters(*one.transformer)).at(kDense);
  const at::Tensor up = parameters.at(kUp).detach();
  EXPECT_TRUE(at::equal(up[0], old));  // keep_first
  const auto count = static_cast<double>(old.numel());
  for (int64_t e = 1; e < 8; ++e) {
    const at::Tensor is_zero = up[e].eq(0);
    const double share = is_zero.sum().item<double>() / count;
    EXPECT_NEAR(share, ratio, 3 * std::sqrt(ratio * (1 - ratio) / count)) << e;
    EXPECT_TRUE(at::equal(up[e], old.masked_fill(is_zero, 0)));
    for (int64_t other = 1; other < e; ++other) EXPECT_FALSE(at::equal(up[e], up[other]));
  }
  const at::Tensor bias = parameters.at("layers.1.moe.experts.up_proj_bias").detach();
  for (int64_t e = 1; e < 8; ++e) EXPECT_TRUE(at::equal(bias[e], bias[0]));
  // The same seed, the same experts.
  Grown again = make("switch", 8);
  spawn({*one.transformer, nullptr}, *again.transformer, *again.optimizer,
        diversified("mask", ratio));
  EXPECT_TRUE(at::equal(named(train::named_parameters(*again.transformer)).at(kUp), up));
}

TEST(Spawn, ChangesExpertsInEveryWayThatItKnows) {
  Grown one = make("top_k", 0);
  const at::Tensor old = named(train::named_parameters(*one.transformer)).at(kDense).detach();
  const auto second = [&](const char* how, Grown& child) {
    spawn({*one.transformer, nullptr}, *child.transformer, *child.optimizer,
          diversified(how, 0.25));
    return named(train::named_parameters(*child.transformer)).at(kUp).detach()[1];
  };
  Grown rescaled = make("switch", 4);
  const at::Tensor scaled = second("mask_rescale", rescaled);
  const at::Tensor kept = scaled.ne(0);
  EXPECT_TRUE(at::allclose(scaled.masked_select(kept), (old / 0.75).masked_select(kept)));

  Grown noisy = make("switch", 4);
  const at::Tensor noise = second("noise", noisy) - old;
  EXPECT_NEAR(noise.std().item<double>() / old.std().item<double>(), 0.2, 0.01);

  Grown renewed = make("switch", 4);
  const at::Tensor fresh =
      named(train::named_parameters(*renewed.transformer)).at(kUp).detach()[1].clone();
  const at::Tensor mixed = second("reinit", renewed);
  const at::Tensor is_new = mixed.ne(old);
  EXPECT_NEAR(is_new.to(at::kFloat).mean().item<double>(), 0.25, 0.03);
  EXPECT_TRUE(at::equal(mixed.masked_select(is_new), fresh.masked_select(is_new)));
}

TEST(Spawn, Property12KeepsCopiesEqualWhereNothingTellsThemApart) {
  Grown one = make("top_k", 0);
  train_a_little(one);
  Grown four = make("dense_to_sparse", 4);
  spawn({*one.transformer, one.optimizer.get()}, *four.transformer, *four.optimizer,
        diversified("copy"));
  auto parameters = named(train::named_parameters(*four.transformer));
  {
    const at::NoGradGuard no_grad;
    for (auto& [name, parameter] : parameters) {
      if (name.find(".router.") != std::string::npos) parameter.zero_();
    }
  }
  four.transformer->forward(input()).hidden_TD.square().mean().backward();
  four.optimizer->step(1e-2, 1);
  const at::Tensor up = parameters.at(kUp).detach();
  for (int64_t e = 1; e < 4; ++e) EXPECT_TRUE(at::allclose(up[e], up[0], 1e-6, 1e-7)) << e;
}

TEST(Spawn, GivesNewExpertsTheirParentsMomentsOrPartsOfThemOrNone) {
  Grown one = make("top_k", 0);
  train_a_little(one);
  const auto old = named(one.optimizer->state());
  const std::string moment = std::string("exp_avg.") + kUp, count = std::string("step.") + kUp;
  const auto state_after = [&](const char* policy, Grown& child) {
    EvolveConfig config = diversified("mask");
    config.optimizer_state = policy;
    spawn({*one.transformer, one.optimizer.get()}, *child.transformer, *child.optimizer, config);
    return named(child.optimizer->state());
  };
  const at::Tensor old_moment = old.at(std::string("exp_avg.") + kDense);
  Grown copied = make("switch", 4);
  const auto copy = state_after("copy", copied);
  EXPECT_TRUE(at::equal(copy.at(moment)[3], old_moment));
  EXPECT_EQ(copy.at(count).item<double>(), 2);
  EXPECT_EQ(copy.at("step.layers.1.moe.router.weight").item<double>(), 0);
  EXPECT_TRUE(at::equal(copy.at("exp_avg.embed_tokens"), old.at("exp_avg.embed_tokens")));

  Grown masked = make("switch", 4);
  const auto part = state_after("masked_copy", masked);
  const at::Tensor gone =
      named(train::named_parameters(*masked.transformer)).at(kUp).detach()[3].eq(0);
  EXPECT_GT(gone.sum().item<double>(), 0);
  EXPECT_TRUE(at::equal(part.at(moment)[3], old_moment.masked_fill(gone, 0)));

  Grown anew = make("switch", 4);
  const auto none = state_after("reset", anew);
  EXPECT_EQ(none.at(moment).abs().max().item<double>(), 0);
  EXPECT_EQ(none.at(count).item<double>(), 0);
}

TEST(Spawn, GrowsFourExpertsIntoEightWithTheirRowsOfTheGate) {
  Grown four = make("dense_to_sparse", 4);
  train_a_little(four);
  Grown eight = make("dense_to_sparse", 8);
  spawn({*four.transformer, four.optimizer.get()}, *eight.transformer, *eight.optimizer,
        diversified("copy"));
  const auto old = named(train::named_parameters(*four.transformer));
  const auto now = named(train::named_parameters(*eight.transformer));
  const std::string gate = "layers.1.moe.router.weight";
  EXPECT_TRUE(at::equal(now.at(gate).slice(0, 0, 4), old.at(gate)));
  EXPECT_FALSE(at::equal(now.at(gate).slice(0, 4, 8), old.at(gate)));
  EXPECT_TRUE(at::allclose(now.at(gate).slice(0, 4, 8), old.at(gate), 0, 0.02));
  EXPECT_TRUE(at::equal(now.at(kUp).slice(0, 4, 8), old.at(kUp)));
  EXPECT_TRUE(at::equal(named(eight.optimizer->state()).at("exp_avg." + gate).slice(0, 4, 8),
                        named(four.optimizer->state()).at("exp_avg." + gate)));
  four.transformer->eval();
  eight.transformer->eval();
  const at::Tensor before = four.transformer->forward(input()).hidden_TD;
  const at::Tensor after = eight.transformer->forward(input()).hidden_TD;
  EXPECT_LE((after - before).norm().item<double>() / before.norm().item<double>(), 1e-3);
}

// Each rank has its experts, and with a distributed optimiser its part of the state.
TEST(Spawn, IsTheSameOnAnyLayout) {
  Grown one = make("top_k", 0);
  train_a_little(one);
  Grown alone = make("switch", 8);
  EvolveConfig config = diversified("mask");
  config.optimizer_state = "masked_copy";
  spawn({*one.transformer, one.optimizer.get()}, *alone.transformer, *alone.optimizer, config);
  const auto numbers = train::expert_numbers(*alone.transformer);
  const auto expected =
      named(train::global_state(train::named_parameters(*alone.transformer), numbers));
  const auto expected_state = named(train::global_state(alone.optimizer->state(), numbers));
  for (const bool zero1 : {false, true}) {
    const comm::ParallelConfig layout{.expert_model_parallel_size = 2,
                                      .use_distributed_optimizer = zero1};
    comm::run_thread_ranks(4, layout, [&](const comm::ParallelContext& context) {
      Grown here = make("switch", 8, context);
      spawn({*one.transformer, one.optimizer.get()}, *here.transformer, *here.optimizer, config);
      const auto own = train::expert_numbers(*here.transformer);
      for (const auto& [name, value] :
           train::global_state(train::named_parameters(*here.transformer), own)) {
        EXPECT_TRUE(at::equal(value, expected.at(name))) << name;
      }
      if (zero1) {
        for (const auto& [name, value] : here.optimizer->state()) {
          if (value.dim() == 0 || name.find(".experts.") != std::string::npos) continue;
          const auto& part = here.optimizer->part_of(name);
          EXPECT_TRUE(at::equal(value.view(-1), expected_state.at(name).view(-1).narrow(
                                                    0, part.own_begin(), value.numel())))
              << name;
        }
        return;
      }
      for (const auto& [name, value] : train::global_state(here.optimizer->state(), own)) {
        EXPECT_TRUE(at::equal(value, expected_state.at(name))) << name;
      }
    });
  }
}

}  // namespace
}  // namespace locus::evolve
