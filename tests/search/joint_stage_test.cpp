#include "locus/search/joint_stage.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>

#include "locus/base/error.h"
#include "locus/ops/cross_entropy.h"
#include "locus/ops/distillation.h"
#include "locus/search/extract.h"
#include "locus/search/unit_gradients.h"
#include "tests/search/search_helpers.h"

namespace locus::search {
namespace {

const JointStage::Training kTraining{20, 3, {.sequence_length = 10}, 1};

DanceConfig two_budgets() {
  DanceConfig config;
  config.budgets = {0.5, 0.7};
  config.begin = 0.2;
  config.calibration_steps = 2;
  config.block_size = 4;
  config.gate_interval = 2;
  return config;
}

model::TransformerConfig config_with_slots() {
  return tiny_config("top_k", Kind::kDecoder, "norm_topk_prob = false");
}

model::BatchTensors batch_of(const model::TransformerConfig& config, uint64_t seed) {
  model::BatchTensors batch;
  batch.input = random_input(config, seed);
  batch.labels_T = batch.input.input_ids_BS.roll(-1, 1).flatten();
  return batch;
}

std::map<std::string, at::Tensor> gradients_of(const model::Transformer& transformer) {
  std::map<std::string, at::Tensor> out;
  for (const auto& [name, value] : train::named_parameters(transformer)) {
    if (value.grad().defined()) out[name] = value.grad().clone();
  }
  return out;
}

void reset(const model::Transformer& transformer) {
  for (at::Tensor& parameter : transformer.parameters()) parameter.mutable_grad().reset();
}

// The model's own pass, with this weight; its hidden states.
at::Tensor own_pass(model::Transformer& whole, const model::BatchTensors& batch, double weight) {
  const auto out = whole.forward(batch.input);
  const auto entropy =
      ops::linear_cross_entropy(out.hidden_TD, whole.output_weight(), batch.labels_T);
  ((entropy.loss_sum / 30 + out.aux_loss) * weight).backward();
  return out.hidden_TD.detach();
}

// A step's gradients, in `whole`; its update is left out.
void run_step(JointStage& stage, model::Transformer& whole, int64_t step) {
  const model::BatchTensors batch = batch_of(whole.config(), static_cast<uint64_t>(step));
  const double weight = stage.begin_step(step);
  const at::Tensor hidden = own_pass(whole, batch, weight);
  if (weight != 1.0) {
    stage.run({batch, hidden, 30, 1});
    stage.add_gradients();
  }
  stage.see_gradients();
}

// The steps before the joint stage, as two_budgets() has it.
void calibrate(JointStage& stage, model::Transformer& whole) {
  for (int64_t step = 2; step < 4; ++step) {
    run_step(stage, whole, step);
    reset(whole);
  }
}

TEST(JointStage, BeginsWhenItHasLookedAtTheGradients) {
  const auto config = config_with_slots();
  const auto whole = make_model(config);
  JointState state;
  JointStage stage(*whole, two_budgets(), kTraining, state);
  for (int64_t step = 0; step < 4; ++step) {
    run_step(stage, *whole, step);
    EXPECT_EQ(stage.flops_per_token(), 0) << step;
    EXPECT_EQ(state.calibrated_steps, std::max<int64_t>(0, step - 1)) << step;
    reset(*whole);
  }
  EXPECT_TRUE(state.gates.logits.empty());
  run_step(stage, *whole, 4);
  EXPECT_EQ(state.gates.logits.size(), stage.space().units().size());
  EXPECT_GT(stage.flops_per_token(), 0);
}

// The gradients of a joint step are the weighted sum of those of all its models, each alone.
TEST(JointStage, AddsUpWhatItsModelsWouldLearnAlone) {
  const auto config = config_with_slots();
  const auto whole = make_model(config, /*in_double=*/true);
  DanceConfig settings = two_budgets();
  settings.gate_lr = 0;
  JointState state;
  JointStage stage(*whole, settings, kTraining, state);
  calibrate(stage, *whole);
  run_step(stage, *whole, 6);
  const auto found = gradients_of(*whole);
  reset(*whole);

  const model::BatchTensors batch = batch_of(config, 6);
  const at::Tensor teacher = own_pass(*whole, batch, settings.full_weight);
  const std::vector<Mask>& masks = stage.masks();
  ASSERT_EQ(masks.size(), 2u);
  for (const Mask& mask : masks) {
    const ModelCut cut = stage.space().to_cut(mask);
    const auto part = extract(*whole, cut);
    const CutMap map(*whole, *part, cut);
    const auto out = part->forward(batch.input);
    const auto losses =
        ops::linear_distillation(out.hidden_TD, part->output_weight(), batch.labels_T, teacher,
                                 whole->output_weight(), settings.label_share);
    ((losses.loss_sum / 30 + out.aux_loss) * (1 - settings.full_weight) / 2).backward();
    add_gradients(*whole, *part, map);
  }
  const auto expected = gradients_of(*whole);
  ASSERT_EQ(found.size(), expected.size());
  for (const auto& [name, gradient] : expected) {
    EXPECT_TRUE(at::allclose(found.at(name), gradient, 1e-9, 1e-12)) << name;
  }
}

// dLoss/dm, against central differences of the loss of a model whose units write m times as much.
TEST(UnitGradients, AreTheSlopesOfTheLoss) {
  for (const Kind kind : {Kind::kDecoder, Kind::kEncoderDecoder}) {
    const auto config = tiny_config("top_k", kind, "norm_topk_prob = false");
    const auto whole = make_model(config, /*in_double=*/true);
    const ArchSpace space(config.model, config.moe, config.router_options, {8, 0.1, true, 1});
    const auto input = random_input(config, 1);
    const auto loss_of = [&] {
      return whole->logits(whole->forward(input).hidden_TD).square().mean();
    };
    loss_of().backward();
    const UnitGradients found =
        unit_gradients(space, *whole, *whole, whole_cut(config.model, config.moe));
    auto parameters = whole->named_parameters();
    for (size_t unit = 0; unit < space.units().size(); ++unit) {
      const Unit& one = space.units()[unit];
      const std::string prefix = "layers." + std::to_string(one.layer) + ".";
      const auto& layer = space.layers()[static_cast<size_t>(one.layer)];
      const std::string block = prefix + (layer.has_experts() ? "moe.experts." : "mlp.");
      const int64_t group = layer.model.head_dim * config.model.heads_per_group();
      std::vector<at::Tensor> gated;
      switch (one.kind) {
        case UnitKind::kHead:
          gated = {
              parameters[prefix + "self_attn.o_proj.weight"].narrow(1, one.index * group, group)};
          break;
        case UnitKind::kCrossHead:
          gated = {
              parameters[prefix + "cross_attn.o_proj.weight"].narrow(1, one.index * group, group)};
          break;
        case UnitKind::kBlock: {
          const auto [begin, end] = space.channels_of(one);
          gated = {parameters[block + "down_proj"].slice(-1, begin, end)};
          break;
        }
        case UnitKind::kExpert:
          gated = {parameters[block + "down_proj"][one.index],
                   parameters[block + "down_proj_bias"][one.index]};
          break;
        case UnitKind::kAttention:
          gated = {parameters[prefix + "self_attn.o_proj.weight"],
                   parameters[prefix + "self_attn.o_proj.bias"]};
          break;
        case UnitKind::kCrossAttention:
          gated = {parameters[prefix + "cross_attn.o_proj.weight"],
                   parameters[prefix + "cross_attn.o_proj.bias"]};
          break;
        case UnitKind::kFeedForward:
          gated = {parameters[block + "down_proj"], parameters[block + "down_proj_bias"]};
          break;
        case UnitKind::kSlot: continue;
      }
      const at::NoGradGuard no_grad;
      constexpr double kStep = 1e-5;
      double loss[2];
      for (const int sign : {1, -1}) {
        std::vector<at::Tensor> before;
        for (const at::Tensor& one_gated : gated) {
          before.push_back(one_gated.clone());
          one_gated.mul_(1 + sign * kStep);
        }
        loss[sign > 0 ? 0 : 1] = loss_of().item<double>();
        for (size_t i = 0; i < gated.size(); ++i) gated[i].copy_(before[i]);
      }
      const double slope = (loss[0] - loss[1]) / (2 * kStep);
      EXPECT_NEAR(found.dense[unit] + found.experts[unit], slope, 1e-5 * (1 + std::abs(slope)))
          << "kind " << static_cast<int>(one.kind) << ", " << one.index << " of layer "
          << one.layer;
    }
  }
}

TEST(JointStage, LeavesTheRanksOfSlotsAlone) {
  const auto config = config_with_slots();
  const auto whole = make_model(config);
  JointState state;
  JointStage stage(*whole, two_budgets(), kTraining, state);
  std::vector<double> first;
  for (int64_t step = 2; step < 9; ++step) {
    run_step(stage, *whole, step);
    reset(*whole);
    if (step == 3) first = proportional_ranks(stage.space(), state.importance);
  }
  EXPECT_EQ(state.gates.updates, 3);
  bool has_learned = false;
  for (size_t unit = 0; unit < first.size(); ++unit) {
    const bool is_slot = stage.space().units()[unit].kind == UnitKind::kSlot;
    if (is_slot) {
      EXPECT_EQ(state.gates.logits[unit], first[unit]);
    }
    has_learned = has_learned || state.gates.logits[unit] != first[unit];
  }
  EXPECT_TRUE(has_learned);
}

// The guard will skip the step, and gates with it.
TEST(JointStage, LearnsNothingFromANaN) {
  const auto config = config_with_slots();
  const auto whole = make_model(config);
  JointState state;
  JointStage stage(*whole, two_budgets(), kTraining, state);
  calibrate(stage, *whole);
  {
    const at::NoGradGuard no_grad;
    whole->named_parameters()["layers.0.self_attn.o_proj.weight"].fill_(
        std::numeric_limits<float>::quiet_NaN());
  }
  run_step(stage, *whole, 4);
  EXPECT_EQ(state.gates.updates, 0);
  for (const double logit : state.gates.logits) EXPECT_TRUE(std::isfinite(logit));
}

TEST(JointStage, LearnsGatesInItsFirstPartAlone) {
  const auto config = config_with_slots();
  const auto whole = make_model(config);
  JointState state;
  JointStage stage(*whole, two_budgets(), kTraining, state);
  std::map<int64_t, int64_t> updates;
  for (int64_t step = 0; step < 12; ++step) {
    run_step(stage, *whole, step);
    updates[step] = state.gates.updates;
    reset(*whole);
  }
  // Joint from 4 to 20, of which 30% are 4.8 steps; every second one.
  EXPECT_EQ(updates[3], 0);
  EXPECT_EQ(updates[4], 1);
  EXPECT_EQ(updates[6], 2);
  EXPECT_EQ(updates[8], 3);
  EXPECT_EQ(updates[11], 3);
}

// What is off in the full width gets no gradient from the smaller models.
TEST(JointStage, GatesLearnWithoutTouchingTheWeightsThatAreOff) {
  const auto config = config_with_slots();
  const auto whole = make_model(config, /*in_double=*/true);
  DanceConfig settings = two_budgets();
  settings.gate_noise = 0;
  settings.full_weight = 1e-12;  // nothing else has a gradient there
  JointState state;
  JointStage stage(*whole, settings, kTraining, state);
  calibrate(stage, *whole);
  const int64_t first = 4;
  run_step(stage, *whole, first);  // learns
  EXPECT_EQ(state.gates.updates, 1);
  const at::Tensor gradient =
      whole->named_parameters()["layers.1.mlp.down_proj"].grad().abs().sum(0);
  int64_t off = 0;
  for (int64_t c = 0; c < gradient.size(0); ++c) off += gradient[c].item<double>() < 1e-9 ? 1 : 0;
  EXPECT_GE(off, 8) << "of 40 channels, some are in neither model";
  EXPECT_LT(off, 36);
}

TEST(JointStage, GoesOnFromItsState) {
  const auto config = config_with_slots();
  const auto run = [&](bool stops) {
    const auto whole = make_model(config);
    JointState state;
    auto stage = std::make_unique<JointStage>(*whole, two_budgets(), kTraining, state);
    for (int64_t step = 0; step < 8; ++step) {
      if (stops && step >= 3) {
        state = read_joint_state("test", to_json(state));
        stage = std::make_unique<JointStage>(*whole, two_budgets(), kTraining, state);
      }
      run_step(*stage, *whole, step);
      reset(*whole);
    }
    return to_json(state);
  };
  EXPECT_EQ(run(false), run(true));
}

TEST(JointStage, RefusesBudgetsBelowTheFloors) {
  const auto config = config_with_slots();
  const auto whole = make_model(config);
  DanceConfig settings = two_budgets();
  settings.budgets = {0.01};
  JointState state;
  EXPECT_THROW(JointStage(*whole, settings, kTraining, state), ConfigError);
  EXPECT_THROW(read_joint_state("dance.json", "{}"), DataError);
}

TEST(JointStage, NamesEachProblem) {
  DanceConfig config = two_budgets();
  EXPECT_TRUE(problems(config, 100).empty());
  config.budgets = {1.5};
  config.full_weight = 1;
  config.block_size = 0;
  EXPECT_EQ(problems(config, 100).size(), 3u);
  EXPECT_TRUE(problems(DanceConfig{}, 0).empty());
}

DanceConfig paper_mode() {
  DanceConfig config = two_budgets();
  config.mode = "paper";
  config.budgets = {0.7};
  return config;
}

// P20: gated in every step, at the whole model's price; what is off does not learn.
TEST(JointStage, FollowsThePaper) {
  const auto config = config_with_slots();
  const auto whole = make_model(config, /*in_double=*/true);
  const DanceConfig settings = paper_mode();
  JointState state;
  JointStage stage(*whole, settings, kTraining, state);
  calibrate(stage, *whole);
  for (int64_t step = 4; step < 8; ++step) {
    const model::BatchTensors batch = batch_of(config, static_cast<uint64_t>(step));
    stage.begin_step(step);
    EXPECT_EQ(stage.flops_per_token(), 3 * stage.costs().whole(Resource::kFlops));
    stage.run({batch, whole->forward(batch.input).hidden_TD.detach(), 30, 1});
    stage.add_gradients();
    ASSERT_EQ(state.paper.history.size(), static_cast<size_t>(step - 3));
    const std::string& on = state.paper.history.back();
    const auto gradients = gradients_of(*whole);
    size_t off = 0;
    for (size_t unit = 0; unit < on.size(); ++unit) {
      const Unit& one = stage.space().units()[unit];
      if (on[unit] == '1' || one.kind != UnitKind::kBlock) continue;
      const auto [begin, end] = stage.space().channels_of(one);
      const at::Tensor& gradient = gradients.at(output_weight(stage.space(), one.kind, one.layer));
      EXPECT_EQ(gradient.slice(-1, begin, end).abs().max().item<double>(), 0);
      ++off;
    }
    EXPECT_GT(off, 0u);
    reset(*whole);
  }
  // Every unit's averages have moved from where they begin.
  for (size_t unit = 0; unit < state.paper.magnitude.size(); ++unit) {
    const bool has_gate = has_columns(stage.space().units()[unit].kind);
    EXPECT_EQ(state.paper.magnitude[unit] != 1.0, has_gate);
  }
}

TEST(JointStage, OfThePaperGoesOnFromItsFile) {
  const auto config = config_with_slots();
  const auto run = [&](int64_t stop) {
    const auto whole = make_model(config);
    JointState state;
    auto stage = std::make_unique<JointStage>(*whole, paper_mode(), kTraining, state);
    calibrate(*stage, *whole);
    for (int64_t step = 4; step < 9; ++step) {
      if (step == stop) {
        state = read_joint_state("a test", to_json(state));
        stage = std::make_unique<JointStage>(*whole, paper_mode(), kTraining, state);
      }
      run_step(*stage, *whole, step);
      reset(*whole);
    }
    return to_json(state);
  };
  EXPECT_EQ(run(6), run(100));
}

TEST(JointState, PartsOfDifferentSizesAreRefused) {
  JointState state;
  state.gates.logits = {1, 2};
  state.paper.running = {1, 2, 3};
  EXPECT_THROW(read_joint_state("a test", to_json(state)), DataError);
  EXPECT_EQ(read_joint_state("a test", to_json(JointState())).num_units(), 0u);
}

}  // namespace
}  // namespace locus::search
