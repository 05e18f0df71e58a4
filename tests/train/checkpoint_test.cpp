#include "locus/train/checkpoint.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <sys/resource.h>

#include <csignal>
#include <fstream>

#include "locus/base/error.h"
#include "locus/base/file.h"
#include "locus/train/train_step.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_folder.h"
#include "tests/support/tiny_run.h"

namespace locus::train {
namespace {

using test::TempFolder;

// A model with an optimiser whose state is not all zeros.
struct Trained {
  explicit Trained(const model::TransformerConfig& config)
      : transformer(config), optimizer(make_optimizer({}, named_parameters(transformer))) {
    for (auto& [name, parameter] : named_parameters(transformer)) {
      parameter.mutable_grad() = at::full_like(parameter, 0.5).detach();
    }
    optimizer->step(0.01, 1.0);
  }
  model::Transformer transformer;
  std::unique_ptr<Optimizer> optimizer;
};

TrainerState state_at(int64_t step) {
  return {.step = step,
          .tokens = step * 10,
          .skipped_steps = 2,
          .skipped_in_row = 1,
          .loss_mean = 1.0 / 3.0,
          .loss_mean_steps = 9,
          .placement = {.versions = {{7, {{{0.5, 2}, {3, 1.0 / 3.0}}}, {}},
                                     {9, {{{1, 2}, {3, 4}}}, {{1, 0}, {0, 1}}}},
                        .counted_MGE = {{{5, 6}, {7, 8}}}},
          .experts = {{3, {{1, 0}, {{5, 1.0 / 3.0}}}}, {5, {{}, {}}}}};
}

void save(CheckpointWriter& writer, Trained& trained, int64_t step) {
  writer.save(trained.transformer, *trained.optimizer, state_at(step),
              std::vector<TextFile>{{"config.toml", "# settings\n"},
                                    {"tokenizer.model", "tokenizer bytes"}});
  writer.wait();
}

// Writes beyond this size fail for as long as it lives.
class FileSizeLimit {
 public:
  explicit FileSizeLimit(rlim_t bytes) {
    ::getrlimit(RLIMIT_FSIZE, &before_);
    handler_ = std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{bytes, before_.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &limit);
  }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }
  FileSizeLimit(const FileSizeLimit&) = delete;
  FileSizeLimit& operator=(const FileSizeLimit&) = delete;

 private:
  rlimit before_{};
  void (*handler_)(int) = nullptr;
};

void flip_bit(const fs::path& path, size_t position) {
  std::string content = read_file(path);
  ASSERT_LT(position, content.size());
  content[position] = static_cast<char>(content[position] ^ 1);
  std::ofstream(path, std::ios::binary) << content;
}

void expect_equal_models(model::Transformer& a, model::Transformer& b) {
  const auto left = model::stored_tensors(a);
  const auto right = model::stored_tensors(b);
  ASSERT_EQ(left.size(), right.size());
  for (size_t i = 0; i < left.size(); ++i) {
    EXPECT_EQ(left[i].name, right[i].name);
    EXPECT_TRUE(at::equal(left[i].value, right[i].value)) << left[i].name;
  }
}

TEST(Checkpoint, BringsBackEveryTensorAndTheTrainersState) {
  for (const std::string& router : moe::router_names()) {
    const TempFolder folder;
    Trained trained(test::tiny_transformer_config(router));
    CheckpointWriter writer(folder.path(), {});
    save(writer, trained, 100);
    auto other = test::tiny_transformer_config(router);
    other.seed = 99;
    Trained loaded(other);
    const CheckpointRef found = resolve_checkpoint(folder.path());
    EXPECT_EQ(found.step, 100);
    load_model(found, loaded.transformer);
    load_optimizer(found, *loaded.optimizer, loaded.transformer);
    expect_equal_models(trained.transformer, loaded.transformer);
    const NamedTensors left = trained.optimizer->state();
    const NamedTensors right = loaded.optimizer->state();
    for (size_t i = 0; i < left.size(); ++i)
      EXPECT_TRUE(at::equal(left[i].second, right[i].second)) << left[i].first;
    const TrainerState state = load_trainer_state(found);
    EXPECT_EQ(state.tokens, 1000);
    EXPECT_EQ(state.skipped_steps, 2);
    EXPECT_EQ(state.skipped_in_row, 1);
    EXPECT_EQ(state.loss_mean, 1.0 / 3.0);
    ASSERT_EQ(state.placement.versions.size(), 2U);
    EXPECT_EQ(state.placement.versions[1].from_step, 9);
    EXPECT_EQ(state.placement.versions[0].use_MGE,
              (placement::ExpertUse{{{0.5, 2}, {3, 1.0 / 3.0}}}));
    EXPECT_EQ(state.placement.versions[1].places,
              (std::vector<placement::ExpertOfSlot>{{1, 0}, {0, 1}}));
    EXPECT_EQ(state.placement.counted_MGE, (placement::ExpertUse{{{5, 6}, {7, 8}}}));
    ASSERT_EQ(state.experts.size(), 2U);
    EXPECT_EQ(state.experts.at(3).expert_of_slot, (placement::ExpertOfSlot{1, 0}));
    EXPECT_EQ(state.experts.at(3).tokens_RE, (std::vector<std::vector<double>>{{5, 1.0 / 3.0}}));
    EXPECT_EQ(read_file(found.path / "config.toml"), "# settings\n");
    EXPECT_EQ(read_file(found.path / "tokenizer.model"), "tokenizer bytes");
    EXPECT_EQ(read_file(folder.path() / "latest"), "step_00000100\n");
  }
}

TEST(Checkpoint, LargeModelsGoToSeveralFilesWithAnIndex) {
  const TempFolder folder;
  Trained trained(test::tiny_transformer_config());
  CheckpointConfig config;
  config.max_shard_bytes = 20000;
  CheckpointWriter writer(folder.path(), config);
  save(writer, trained, 1);
  EXPECT_TRUE(fs::exists(folder.path() / "step_00000001" / "model.safetensors.index.json"));
  Trained loaded(test::tiny_transformer_config());
  load_model(resolve_checkpoint(folder.path()), loaded.transformer);
  expect_equal_models(trained.transformer, loaded.transformer);
}

TEST(Checkpoint, KeepsTheLastOnesAndEveryNth) {
  const TempFolder folder;
  Trained trained(test::tiny_transformer_config());
  CheckpointConfig config;
  config.keep_last = 2;
  config.keep_every = 30;
  CheckpointWriter writer(folder.path(), config);
  for (const int64_t step : {10, 20, 30, 40, 50, 60, 70}) save(writer, trained, step);
  std::vector<int64_t> steps;
  for (const CheckpointRef& found : list_checkpoints(folder.path())) steps.push_back(found.step);
  EXPECT_EQ(steps, (std::vector<int64_t>{70, 60, 30}));
}

TEST(Checkpoint, ADamagedOneIsPassedOverForTheNewestIntactOne) {
  const TempFolder folder;
  Trained trained(test::tiny_transformer_config());
  CheckpointConfig config;
  config.keep_last = 0;
  CheckpointWriter writer(folder.path(), config);
  const std::vector<std::string> files{"model.safetensors", "optimizer.safetensors",
                                       "trainer.json",      "config.toml",
                                       "tokenizer.model",   "manifest.json"};
  save(writer, trained, 1);
  for (size_t i = 0; i < files.size(); ++i) {
    const auto step = static_cast<int64_t>(10 + i);
    save(writer, trained, step);
    const fs::path file = folder.path() / format("step_{:08}", step) / files[i];
    if (i % 2 == 0) {
      flip_bit(file, read_file(file).size() / 2);
    } else {
      fs::resize_file(file, fs::file_size(file) / 2);
    }
    EXPECT_TRUE(checkpoint_damage(file.parent_path(), true).has_value()) << files[i];
    EXPECT_EQ(newest_intact(folder.path())->step, 1) << files[i];
  }
  fs::remove(folder.path() / "step_00000001" / "trainer.json");
  EXPECT_FALSE(newest_intact(folder.path()).has_value());
  EXPECT_THROW(resolve_checkpoint(folder.path()), DataError);
}

TEST(Checkpoint, WhatAKilledProcessLeftHalfMadeIsNotACheckpointAndIsRemoved) {
  const TempFolder folder;
  const fs::path half = folder.path() / ".uncommitted-step_00000005";
  make_folders(half);
  write_file_atomic(half / "model.safetensors", "half");
  EXPECT_TRUE(list_checkpoints(folder.path()).empty());
  const CheckpointWriter writer(folder.path(), {});
  EXPECT_FALSE(fs::exists(half));
}

TEST(Checkpoint, AResumedRunReplacesTheStepThatItPassesASecondTime) {
  const TempFolder folder;
  Trained first(test::tiny_transformer_config());
  auto other = test::tiny_transformer_config();
  other.seed = 99;
  Trained second(other);
  CheckpointWriter writer(folder.path(), {});
  save(writer, first, 10);
  save(writer, second, 10);
  Trained loaded(test::tiny_transformer_config());
  load_model(resolve_checkpoint(folder.path()), loaded.transformer);
  expect_equal_models(second.transformer, loaded.transformer);
}

TEST(Checkpoint, OfAnotherShapeNamesTheTensorAndBothShapes) {
  const TempFolder folder;
  Trained trained(test::tiny_transformer_config());
  CheckpointWriter writer(folder.path(), {});
  save(writer, trained, 10);
  auto wider = test::tiny_transformer_config();
  wider.moe.intermediate_size = 56;
  model::Transformer transformer(wider);
  const std::string message = test::error_of<DataError>(
      [&] { load_model(resolve_checkpoint(folder.path()), transformer); });
  EXPECT_NE(message.find("experts.0"), std::string::npos) << message;
  EXPECT_NE(message.find("[48, 32]"), std::string::npos) << message;
  EXPECT_NE(message.find("[56, 32]"), std::string::npos) << message;
  auto fewer = test::tiny_transformer_config();
  fewer.moe.num_experts = 3;
  model::Transformer small(fewer);
  EXPECT_THROW(load_model(resolve_checkpoint(folder.path()), small), DataError);
}

TEST(Checkpoint, ANanInAWeightIsRefused) {
  const TempFolder folder;
  Trained trained(test::tiny_transformer_config());
  {
    const at::NoGradGuard no_grad;
    named_parameters(trained.transformer)[0].second[3][4] = NAN;
  }
  CheckpointWriter writer(folder.path(), {});
  save(writer, trained, 10);
  model::Transformer transformer(test::tiny_transformer_config());
  const std::string message = test::error_of<DataError>(
      [&] { load_model(resolve_checkpoint(folder.path()), transformer); });
  EXPECT_NE(message.find("model.embed_tokens.weight holds a NaN"), std::string::npos) << message;
}

TEST(Checkpoint, AFailedWriteIsReportedAndLeavesTheEarlierOne) {
  const TempFolder folder;
  Trained trained(test::tiny_transformer_config());
  CheckpointWriter writer(folder.path(), {});
  save(writer, trained, 10);
  const FileSizeLimit limit(10000);  // what a full disk looks like to a writer
  writer.save(trained.transformer, *trained.optimizer, state_at(20), {});
  EXPECT_THROW(writer.wait(), DataError);
  EXPECT_FALSE(fs::exists(folder.path() / "step_00000020"));
  EXPECT_EQ(newest_intact(folder.path())->step, 10);
  EXPECT_EQ(read_file(folder.path() / "latest"), "step_00000010\n");
}

TEST(Checkpoint, AWriteAfterAFailedOneTriesAgain) {
  const TempFolder folder;
  Trained trained(test::tiny_transformer_config());
  CheckpointWriter writer(folder.path(), {});
  {
    const FileSizeLimit limit(10000);
    writer.save(trained.transformer, *trained.optimizer, state_at(10), {});
    EXPECT_THROW(writer.save(trained.transformer, *trained.optimizer, state_at(20), {}), DataError);
  }
  save(writer, trained, 30);  // the disk has room again
  EXPECT_EQ(newest_intact(folder.path())->step, 30);
}

TEST(Checkpoint, AManifestThatNamesFilesOutsideItsFolderIsDamaged) {
  const TempFolder folder;
  Trained trained(test::tiny_transformer_config());
  CheckpointWriter writer(folder.path(), {});
  save(writer, trained, 10);
  const fs::path checkpoint = folder.path() / "step_00000010";
  write_file_atomic(
      checkpoint / "manifest.json",
      R"({"version": 2, "step": 10, "files": {"../latest": {"bytes": 14, "xxh128": ""}}})");
  const auto damage = checkpoint_damage(checkpoint, false);
  ASSERT_TRUE(damage.has_value());
  EXPECT_NE(damage->find("leaves the folder"), std::string::npos);
}

}  // namespace
}  // namespace locus::train
