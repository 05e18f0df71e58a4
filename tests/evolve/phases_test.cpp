#include "locus/evolve/phases.h"

#include <gtest/gtest.h>

#include <cmath>

#include "locus/base/error.h"
#include "tests/support/expect_error.h"

namespace locus::evolve {
namespace {

EvolveConfig from_one(int64_t step) {
  EvolveConfig config;
  config.num_experts = {1};
  config.spawn_steps = {step};
  return config;
}

moe::MoeConfig eight_experts() {
  moe::MoeConfig moe;
  moe.num_experts = 8;
  moe.router.top_k = 8;
  moe.intermediate_size = 96;
  return moe;
}

TEST(Phases, AreOneWithoutEvolution) {
  model::ModelConfig model;
  moe::MoeConfig moe = eight_experts();
  apply_phase({}, 0, model, moe);
  EXPECT_EQ(moe.num_experts, 8);
  Progress progress;
  EXPECT_FALSE(ends_after({}, 1'000'000, 1.0, progress));
  EXPECT_EQ(num_phases({}), 1u);
}

TEST(Phases, BeginWithADenseModelOfAnExpertsWidthAndEndWithAllExperts) {
  EvolveConfig config;
  config.num_experts = {1, 4};
  config.spawn_steps = {10, 20};
  const auto phase = [&](size_t number) {
    model::ModelConfig model;
    model.intermediate_size = 512;
    moe::MoeConfig moe = eight_experts();
    apply_phase(config, number, model, moe);
    return std::tuple(moe.num_experts, moe.router.top_k, model.intermediate_size);
  };
  EXPECT_EQ(phase(0), std::tuple(0, 8, 96));
  EXPECT_EQ(phase(1), std::tuple(4, 4, 512));
  EXPECT_EQ(phase(2), std::tuple(8, 8, 512));
}

TEST(Phases, EndAtTheirStep) {
  EvolveConfig config;
  config.num_experts = {1, 4};
  config.spawn_steps = {10, 20};
  Progress progress;
  EXPECT_FALSE(ends_after(config, 9, 1.0, progress));
  EXPECT_TRUE(ends_after(config, 10, 1.0, progress));
  EXPECT_TRUE(progress.phase_ended);
  begin_next_phase(10, progress);
  EXPECT_FALSE(progress.phase_ended);
  EXPECT_EQ(progress.phase(), 1u);
  EXPECT_EQ(progress.first_step(), 10);
  EXPECT_FALSE(ends_after(config, 19, 1.0, progress));
  EXPECT_TRUE(ends_after(config, 20, 1.0, progress));
  begin_next_phase(20, progress);
  EXPECT_FALSE(ends_after(config, 21, 1.0, progress));
}

// A loss that falls by 0.1 a step for 30 steps, then by 0.001.
double loss_at(int64_t step) {
  return step <= 30 ? 10 - 0.1 * static_cast<double>(step)
                    : 7 - 0.001 * static_cast<double>(step - 30);
}

TEST(Phases, EndOnceTheLossHardlyFalls) {
  EvolveConfig config = from_one(1000);
  config.spawn_slope = 0.01;
  config.slope_window = 10;
  Progress progress;
  int64_t step = 1;
  while (!ends_after(config, step, loss_at(step), progress)) ++step;
  EXPECT_EQ(step, 50);  // the first window that lies in the flat part, after one that does
  config.spawn_slope = 0;
  progress = Progress();
  for (step = 1; !ends_after(config, step, loss_at(step), progress);) ++step;
  EXPECT_EQ(step, 1000);
}

TEST(Phases, GoOnFromWhatACheckpointRemembers) {
  EvolveConfig config = from_one(1000);
  config.spawn_slope = 0.01;
  config.slope_window = 10;
  Progress progress;
  for (int64_t step = 1; step <= 37; ++step) ends_after(config, step, loss_at(step), progress);
  Progress resumed = read_progress("evolve.json", to_json(progress));
  int64_t step = 38;
  while (!ends_after(config, step, loss_at(step), resumed)) ++step;
  EXPECT_EQ(step, 50);
  begin_next_phase(50, resumed);
  EXPECT_EQ(read_progress("evolve.json", to_json(resumed)).spawned_at, std::vector<int64_t>{50});
  EXPECT_NE(
      test::error_of<DataError>([] { read_progress("a/evolve.json", "{}"); }).find("a/evolve.json"),
      std::string::npos);
}

TEST(Phases, PassOverLossesThatAreNotFinite) {
  EvolveConfig config = from_one(1000);
  config.spawn_slope = 0.01;
  config.slope_window = 10;
  Progress progress;
  ends_after(config, 1, std::nan(""), progress);
  EXPECT_EQ(progress.window_steps, 0);
}

std::vector<std::string> problems_of(const EvolveConfig& config, const moe::MoeConfig& moe,
                                     PhaseContext context = {.max_steps = 100,
                                                             .warmup_steps = 10,
                                                             .starts_from_weights = false,
                                                             .expert_model_parallel_size = 1}) {
  return problems(config, model::ModelConfig(), moe, context);
}

TEST(PhaseProblems, AreNoneWhereAllIsWell) {
  EXPECT_TRUE(problems_of({}, eight_experts()).empty());
  EXPECT_TRUE(problems_of(from_one(10), eight_experts()).empty());
  EXPECT_TRUE(problems_of(from_one(0), eight_experts(),
                          {.max_steps = 100, .warmup_steps = 10, .starts_from_weights = true})
                  .empty());
}

TEST(PhaseProblems, NameWhatIsWrong) {
  const auto only = [](const EvolveConfig& config, const moe::MoeConfig& moe = eight_experts()) {
    const std::vector<std::string> found = problems_of(config, moe);
    EXPECT_EQ(found.size(), 1u);
    return found.empty() ? "" : found.front();
  };
  EXPECT_EQ(only(from_one(9)),
            "evolve.spawn_steps: 9 is before the warm-up ends (lr_schedule.warmup_steps = 10): "
            "experts would be spawned from one that has learned nothing");
  EXPECT_EQ(only(from_one(100)), "evolve.spawn_steps: 100 is not before train.max_steps = 100");
  EXPECT_EQ(only(from_one(0)),
            "evolve.spawn_steps = [0]: there is nothing to spawn experts from yet; name trained "
            "weights by checkpoint.initial_load_path, or a later step");
  EvolveConfig uneven = from_one(20);
  uneven.num_experts = {3};
  EXPECT_EQ(only(uneven),
            "evolve.num_experts: 3 experts cannot become 8, it must be a multiple of them");
  EvolveConfig short_list = from_one(20);
  short_list.num_experts = {1, 4};
  EXPECT_EQ(only(short_list),
            "evolve.spawn_steps has 1 numbers for the 2 phases of evolve.num_experts");
  moe::MoeConfig dense;
  dense.num_experts = 0;
  EXPECT_EQ(only(from_one(20), dense),
            "evolve.num_experts: moe.num_experts = 0, the last phase has no experts");
  moe::MoeConfig half = eight_experts();
  half.layer_freq = 2;
  EXPECT_EQ(
      only(from_one(20), half),
      "evolve.num_experts = [1]: one expert is the feed-forward network of a dense model, all "
      "of one width: model.intermediate_size = 1024 and moe.intermediate_size = 96 must be "
      "equal");
  moe::MoeConfig shared = eight_experts();
  shared.shared_expert_intermediate_size = 8;
  EXPECT_EQ(only(from_one(20), shared),
            "evolve.num_experts = [1]: a dense model has no shared expert; set "
            "moe.shared_expert_intermediate_size = 0");
}

}  // namespace
}  // namespace locus::evolve
