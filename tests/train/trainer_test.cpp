#include "locus/train/trainer.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <csignal>
#include <fstream>

#include "locus/base/error.h"
#include "locus/base/log.h"
#include "locus/base/signals.h"
#include "locus/model/weights.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_folder.h"
#include "tests/support/tiny_run.h"

namespace locus::train {
namespace {

using test::TempFolder;

// A whole small run in one folder; build a second one in the same folder to resume.
class TinyRun {
 public:
  TinyRun(const TempFolder& folder, const model::TransformerConfig& config,
          TrainerSettings settings, int64_t num_tokens = 6000)
      : transformer(config),
        optimizer(make_optimizer({}, named_parameters(transformer))),
        folder_(folder.path()) {
    log::set_level(log::Level::kOff);
    settings.lr_schedule.lr = settings.lr_schedule.min_lr = 5e-3;
    settings.lr_schedule.warmup_steps = 2;
    settings.texts = [] { return std::vector<TextFile>{{"config.toml", "# settings\n"}}; };
    settings_ = settings;
    const auto dataset = test::make_tiny_dataset(folder_, num_tokens);
    source_ = std::make_shared<const data::SampleSource>(
        std::vector<std::shared_ptr<const data::IndexedDataset>>{dataset}, std::vector<double>{},
        test::tiny_data_config(), 3);
  }

  TrainOutcome run() {
    TrainerState state;
    std::optional<int64_t> resumed;
    if (const auto found = newest_intact(folder_ / "checkpoints")) {
      load_model(*found, transformer);
      load_optimizer(*found, *optimizer, transformer);
      state = load_trainer_state(*found);
      resumed = state.step;
    }
    MetricsWriter metrics(folder_, resumed, false);
    CheckpointWriter checkpoints(folder_ / "checkpoints", settings_.checkpoint);
    Trainer trainer({transformer, *optimizer, source_, &metrics, checkpoints}, settings_);
    if (on_evaluation) trainer.on_evaluation(on_evaluation);
    return trainer.run(state);
  }

  model::Transformer transformer;
  std::unique_ptr<Optimizer> optimizer;
  std::function<void(int64_t)> on_evaluation;

 private:
  fs::path folder_;
  TrainerSettings settings_;
  std::shared_ptr<const data::SampleSource> source_;
};

TrainerSettings settings_of(int64_t max_steps) {
  TrainerSettings settings;
  settings.train.max_steps = max_steps;
  settings.train.micro_batch_size = 4;
  settings.train.global_batch_size = 8;
  settings.train.max_skipped_in_row = 3;
  settings.checkpoint.interval = 0;
  settings.log.interval = 5;
  settings.log.router_interval = 5;
  return settings;
}

// Dropout and jitter on: a resumed run must draw what the undisturbed one draws.
model::TransformerConfig noisy_config(const std::string& router) {
  auto config = test::tiny_transformer_config(router);
  config.model.hidden_dropout = 0.1;
  config.model.embedding_dropout = 0.1;
  if (router != "hash") config.moe.router.capacity_factor = 1.25;
  for (const Field& field : config.router_options.fields()) {
    if (field.path == "jitter") *std::get<double*>(field.value) = 0.05;
    if (field.path == "bias_update_rate") *std::get<double*>(field.value) = 0.01;
  }
  return config;
}

class EveryRouter : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(Trainer, EveryRouter, testing::ValuesIn(moe::router_names()),
                         [](const auto& param_info) { return param_info.param; });

TEST_P(EveryRouter, ResumesBitForBitAsIfUndisturbed) {
  const TempFolder whole_folder;
  TinyRun whole(whole_folder, noisy_config(GetParam()), settings_of(12));
  const TrainOutcome undisturbed = whole.run();

  const TempFolder folder;
  auto stopping = settings_of(12);
  TinyRun first(folder, noisy_config(GetParam()), stopping);
  first.on_evaluation = [](int64_t) {};
  stopping.eval_interval = 7;
  TinyRun interrupted(folder, noisy_config(GetParam()), stopping);
  interrupted.on_evaluation = [](int64_t step) {
    if (step != 7) return;
    set_received_signal(SIGTERM);
    throw Interrupted(SIGTERM);  // as an evaluation does that sees the signal
  };
  const TrainOutcome stopped = interrupted.run();
  set_received_signal(0);
  EXPECT_EQ(stopped.reason, "interrupted");
  EXPECT_EQ(stopped.state.step, 7);
  TinyRun resumed(folder, noisy_config(GetParam()), settings_of(12));
  const TrainOutcome finished = resumed.run();
  EXPECT_EQ(finished.state.step, 12);
  EXPECT_EQ(finished.state.tokens, undisturbed.state.tokens);
  const auto left = model::stored_tensors(whole.transformer);
  const auto right = model::stored_tensors(resumed.transformer);
  for (size_t i = 0; i < left.size(); ++i) {
    EXPECT_TRUE(at::equal(left[i].value, right[i].value)) << left[i].name;
  }
}

// 64 sequences of random tokens, each known by its first token: a loss of 0 is possible.
data::Batch sixty_four_sequences() {
  data::Batch batch;
  batch.num_sequences = 64;
  batch.sequence_length = 16;
  const auto total = static_cast<size_t>(batch.num_sequences * batch.sequence_length);
  batch.document_ids.assign(total, 0);
  batch.domain_ids.assign(total, -1);
  for (int32_t s = 0; s < 64; ++s) {
    int32_t id = s;
    for (int32_t i = 0; i < 16; ++i) {
      batch.input_ids.push_back(id);
      id = static_cast<int32_t>(random_bits(5, static_cast<uint64_t>(s * 16 + i)) %
                                test::kTinyVocabulary);
      batch.labels.push_back(id);
      batch.position_ids.push_back(i);
    }
    batch.global_sequence_index.push_back(s);
  }
  return batch;
}

TEST_P(EveryRouter, MemorisesSixtyFourSequences) {
  auto config = test::tiny_transformer_config(GetParam());
  config.model.hidden_size = 64;
  if (GetParam() == "expert_choice") config.moe.router.capacity_factor = 2.0;
  model::Transformer transformer(config);
  OptimizerConfig optimizer_config;
  optimizer_config.weight_decay = 0.0;
  const auto optimizer = make_optimizer(optimizer_config, named_parameters(transformer));
  TrainStep step(transformer, *optimizer, {}, at::kCPU);
  TrainerState state;
  const std::vector<data::Batch> batches{sixty_four_sequences()};
  double loss = 0;
  for (state.step = 0; state.step < 400; ++state.step) {
    const double lr = 5e-3 * std::min(1.0, static_cast<double>(400 - state.step) / 200.0);
    loss = step.run(batches, lr, state).loss;
    if (loss < 0.05) break;
  }
  EXPECT_LT(loss, 0.05);
}

TEST(TrainStep, MicroBatchesAddUpToTheGradientOfTheGlobalBatch) {
  const TempFolder folder;
  const auto dataset = test::make_tiny_dataset(folder.path(), 4000);
  const data::SampleSource source({dataset}, {}, test::tiny_data_config(), 3);
  auto config = test::tiny_transformer_config();
  config.moe.router.aux_loss_coeff = 0;
  const auto norm_with = [&](int64_t micro_batch_size) {
    model::Transformer transformer(config);
    const auto optimizer = make_optimizer({}, named_parameters(transformer));
    TrainStep step(transformer, *optimizer, {}, at::kCPU);
    std::vector<data::Batch> batches;
    for (int64_t first = 0; first < 8; first += micro_batch_size) {
      batches.push_back(source.training_batch(first, micro_batch_size));
    }
    TrainerState state;
    return step.run(batches, 0.0, state);
  };
  const StepResult whole = norm_with(8);
  for (const int64_t size : {1, 2, 4}) {
    const StepResult parts = norm_with(size);
    EXPECT_EQ(parts.num_labels, whole.num_labels);
    EXPECT_NEAR(parts.loss, whole.loss, 1e-5);
    EXPECT_NEAR(parts.grad_norm, whole.grad_norm, 1e-4 * whole.grad_norm);
  }
}

// Nothing is to be learned from oneself; with labels alone a teacher changes nothing.
TEST(TrainStep, LearnsFromATeacher) {
  const TempFolder folder;
  const auto dataset = test::make_tiny_dataset(folder.path(), 4000);
  const data::SampleSource source({dataset}, {}, test::tiny_data_config(), 3);
  auto config = test::tiny_transformer_config();
  config.moe.router.aux_loss_coeff = 0;
  const auto step_with = [&](uint64_t teacher_seed, double label_share) {
    model::Transformer transformer(config);
    const auto optimizer = make_optimizer({}, named_parameters(transformer));
    TrainStep step(transformer, *optimizer, {}, at::kCPU);
    if (teacher_seed != 0) {
      auto of_teacher = config;
      of_teacher.seed = teacher_seed;
      auto teacher = std::make_shared<model::Transformer>(of_teacher);
      teacher->eval();
      step.set_teacher(teacher, label_share);
    }
    TrainerState state;
    return step.run({source.training_batch(0, 8)}, 0.0, state);
  };
  const StepResult alone = step_with(0, 1);
  const StepResult labels = step_with(config.seed + 1, 1);
  const StepResult itself = step_with(config.seed, 0);
  const StepResult another = step_with(config.seed + 1, 0);
  EXPECT_NEAR(labels.grad_norm, alone.grad_norm, 1e-4 * alone.grad_norm);
  EXPECT_LT(itself.grad_norm, 1e-4 * alone.grad_norm);
  EXPECT_GT(another.grad_norm, 1e-2 * alone.grad_norm);
  for (const StepResult& one : {labels, itself, another}) {
    EXPECT_NEAR(one.loss, alone.loss, 1e-5) << "the cross entropy is told";
  }
}

void poison(model::Transformer& transformer) {
  const at::NoGradGuard no_grad;
  named_parameters(transformer)[0].second.fill_(NAN);
}

TEST(Trainer, GivesUpAfterTheAllowedNumberOfSkippedStepsAndNamesTheBatches) {
  const TempFolder folder;
  TinyRun run(folder, test::tiny_transformer_config(), settings_of(20));
  poison(run.transformer);
  const std::string message = test::error_of<DivergedError>([&] { run.run(); });
  EXPECT_NE(message.find("3 steps in a row"), std::string::npos) << message;
  std::ifstream metrics(folder.path() / "metrics.jsonl");
  std::string line;
  int64_t skipped = 0;
  while (std::getline(metrics, line)) {
    if (line.find("\"kind\":\"skipped\"") == std::string::npos) continue;
    EXPECT_NE(line.find(format("\"first_sample\":{}", skipped * 8)), std::string::npos) << line;
    ++skipped;
  }
  EXPECT_EQ(skipped, 3);
  EXPECT_FALSE(newest_intact(folder.path() / "checkpoints").has_value());
}

TEST(TrainStep, ASkippedStepLeavesTheParametersAlone) {
  const TempFolder folder;
  const auto dataset = test::make_tiny_dataset(folder.path(), 4000);
  const data::SampleSource source({dataset}, {}, test::tiny_data_config(), 3);
  model::Transformer transformer(test::tiny_transformer_config());
  const auto optimizer = make_optimizer({}, named_parameters(transformer));
  TrainConfig config;
  config.loss_spike_factor = 2.0;
  TrainStep step(transformer, *optimizer, config, at::kCPU);
  TrainerState state{.loss_mean = 0.5, .loss_mean_steps = 10};
  const auto before = named_parameters(transformer)[0].second.detach().clone();
  const StepResult result = step.run({source.training_batch(0, 4)}, 0.1, state);
  EXPECT_NE(result.skipped.find("over 2 times its running mean"), std::string::npos)
      << result.skipped;
  EXPECT_EQ(state.skipped_steps, 1);
  EXPECT_EQ(state.skipped_in_row, 1);
  EXPECT_EQ(state.loss_mean, 0.5);
  EXPECT_TRUE(at::equal(before, named_parameters(transformer)[0].second));
  state.loss_mean = 5.0;
  EXPECT_EQ(step.run({source.training_batch(0, 4)}, 0.1, state).skipped, "");
  EXPECT_EQ(state.skipped_in_row, 0);
  EXPECT_FALSE(at::equal(before, named_parameters(transformer)[0].second));
}

TEST(Trainer, Bfloat16FollowsTheFloat32LossWithFloat32Weights) {
  const auto loss_with = [](at::ScalarType type) {
    const TempFolder folder;
    auto config = test::tiny_transformer_config();
    config.compute_type = type;
    TinyRun run(folder, config, settings_of(40));
    const double loss = run.run().loss;
    for (const auto& [name, parameter] : named_parameters(run.transformer)) {
      EXPECT_EQ(parameter.scalar_type(), at::kFloat) << name;
    }
    return loss;
  };
  const double expected = loss_with(at::kFloat);
  EXPECT_NEAR(loss_with(at::kBFloat16), expected, 0.02 * expected);
}

TEST(Trainer, RecomputationChangesNoWeight) {
  const auto weights_with = [](bool recompute) {
    const TempFolder folder;
    auto config = noisy_config("switch");
    config.recompute = recompute;
    TinyRun run(folder, config, settings_of(5));
    run.run();
    std::vector<at::Tensor> out;
    for (const auto& stored : model::stored_tensors(run.transformer))
      out.push_back(stored.value.clone());
    return out;
  };
  const auto plain = weights_with(false);
  const auto recomputed = weights_with(true);
  for (size_t i = 0; i < plain.size(); ++i)
    EXPECT_TRUE(at::allclose(plain[i], recomputed[i], 1e-5, 1e-6)) << i;
}

}  // namespace
}  // namespace locus::train
