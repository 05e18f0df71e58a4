#include "locus/app/run_config.h"

#include <gtest/gtest.h>

#include <ostream>
#include <sstream>

#include "locus/app/commands.h"
#include "locus/base/error.h"
#include "locus/base/file.h"
#include "locus/base/toml.h"
#include "locus/model/family.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_folder.h"

namespace locus::app {
namespace {

using test::error_of;
using test::TempFolder;
using testing::TestWithParam;

TEST(RunConfig, DefaultsHaveNoProblems) {
  EXPECT_EQ(RunConfig().problems(), std::vector<std::string>{});
}

TEST(RunConfig, FileGoesBeforePresetAndSetBeforeFile) {
  const std::string text =
      "[model]\npreset = \"mixtral-8x7b\"\nnum_hidden_layers = 3\nhidden_size = 64\n";
  const RunConfig config = parse_run_config("a.toml", text, {"model.hidden_size=32"});
  EXPECT_EQ(config.model.num_key_value_heads, 8);  // the preset's
  EXPECT_EQ(config.model.num_hidden_layers, 3);    // the file's
  EXPECT_EQ(config.model.hidden_size, 32);         // --set's
  EXPECT_EQ(config.train.max_steps, RunConfig().train.max_steps);
}

TEST(RunConfig, PresetMayComeFromSet) {
  EXPECT_EQ(load_run_config("", {"model.preset=mixtral-8x7b"}).moe.intermediate_size, 14336);
}

TEST(RunConfig, UnknownPresetListsTheKnownOnes) {
  const std::string error =
      error_of<ConfigError>([] { load_run_config("", {"model.preset=mixtral"}); });
  EXPECT_NE(error.find("model.preset = \"mixtral\""), std::string::npos) << error;
  EXPECT_NE(error.find("mixtral-8x7b"), std::string::npos) << error;
}

TEST(RunConfig, EveryPresetLoadsAndValidates) {
  for (const model::FamilyEntry& family : model::family_entries()) {
    for (const model::Preset& preset : family.presets) {
      SCOPED_TRACE(preset.name);
      EXPECT_NO_THROW(validate(load_run_config("", {format("model.preset={}", preset.name)})));
    }
  }
}

TEST(RunConfig, EveryFileInConfigsLoadsAndValidates) {
  int num_files = 0;
  for (const auto& entry :
       fs::recursive_directory_iterator(fs::path(LOCUS_SOURCE_DIR) / "configs")) {
    if (entry.path().extension() != ".toml") continue;
    SCOPED_TRACE(entry.path().string());
    if (entry.path().parent_path().filename() == "compare") {  // its paths are the project's
      std::ostringstream out;
      const fs::path here = fs::current_path();
      fs::current_path(LOCUS_SOURCE_DIR);
      EXPECT_NO_THROW(compare({.file = entry.path().string(), .dry_run = true}, out));
      fs::current_path(here);
      continue;
    }
    EXPECT_NO_THROW(validate(load_run_config(entry.path().string(), {})));
    ++num_files;
  }
  EXPECT_GT(num_files, 0);
}

TEST(RunConfig, ChecksEveryPhaseOfAnEvolution) {
  const auto problem = [](std::vector<std::string> sets) {
    sets.insert(sets.end(), {"evolve.num_experts=[1, 2]", "evolve.spawn_steps=[200, 400]"});
    const std::vector<std::string> found = load_run_config("", sets).problems();
    EXPECT_EQ(found.size(), 1u);
    return found.empty() ? "" : found.front();
  };
  EXPECT_EQ(problem({"evolve.diversify=masks"}),
            "evolve.diversify = \"masks\" is not known; one of copy, mask, mask_rescale, noise, "
            "reinit (did you mean mask?)");
  EXPECT_EQ(problem({"evolve.ratio=1.0"}), "evolve.ratio = 1 must be at least 0 and below 1");
  EXPECT_EQ(problem({"moe.top_k.num_groups=4"}),
            "evolve.num_experts: with 2 experts: moe.top_k.num_groups = 4: must divide "
            "moe.num_experts = 2");
}

// Text -> settings -> text, for each router with its own options.
TEST(RunConfig, WrittenSettingsReadBackTheSame) {
  for (const auto& [router, options] : RunConfig().router_options) {
    SCOPED_TRACE(router);
    RunConfig config = load_run_config("", {"moe.router.type=" + router, "lr_schedule.lr=0.1",
                                            "data.train=[\"a b\", \"c\\\\d\"]"});
    const std::string text = to_toml(config);
    RunConfig again = parse_run_config("again", text, {});
    EXPECT_EQ(to_toml(again), text);
    EXPECT_EQ(again.data.train, (std::vector<std::string>{"a b", "c\\d"}));
    EXPECT_EQ(to_toml(again, /*with_docs=*/true), to_toml(config, /*with_docs=*/true));
  }
}

TEST(RunConfig, AllSettingsOfAllRoutersReadBackAsOneFile) {
  RunConfig config;
  const std::string text = write_toml(config.fields(), /*with_docs=*/true);
  RunConfig again = parse_run_config("all", text, {});
  EXPECT_EQ(write_toml(again.fields(), true), text);
}

TEST(RunConfig, MisspeltKeysAreReportedTogetherWithLineAndNearestKey) {
  const std::string error = error_of<ConfigError>([] {
    parse_run_config("a.toml", "[moe.router]\ncapacity_facto = 1.0\ntop_k = \"two\"\n",
                     {"train.sed=1"});
  });
  EXPECT_NE(error.find("a.toml:2: moe.router.capacity_facto is not a known key; did you mean "
                       "moe.router.capacity_factor?"),
            std::string::npos)
      << error;
  EXPECT_NE(error.find("a.toml:3: moe.router.top_k = \"two\" is a string; expected an integer"),
            std::string::npos)
      << error;
  EXPECT_NE(error.find("did you mean train.seed?"), std::string::npos) << error;
}

TEST(RunConfig, MissingFileIsADataErrorThatNamesIt) {
  const TempFolder folder;
  const std::string path = (folder / "none.toml").string();
  EXPECT_NE(error_of<DataError>([&] { load_run_config(path, {}); }).find(path), std::string::npos);
}

TEST(RunConfig, ValidateReportsAllProblemsAtOnce) {
  const RunConfig config =
      load_run_config("", {"model.hidden_size=30", "train.max_steps=0", "moe.router.type=swich"});
  const std::string error = error_of<ConfigError>([&] { validate(config); });
  for (const char* part :
       {"model.hidden_size = 30", "train.max_steps = 0", "did you mean switch?"}) {
    EXPECT_NE(error.find(part), std::string::npos) << part << " in " << error;
  }
}

struct WrongSetting {
  std::vector<std::string> overrides;
  std::string problem;  // part of the only text
};

void PrintTo(const WrongSetting& wrong, std::ostream* out) {
  *out << testing::PrintToString(wrong.overrides);
}

class Problem : public TestWithParam<WrongSetting> {};

TEST_P(Problem, IsNamedAloneWithKeyAndValue) {
  const std::vector<std::string> problems = load_run_config("", GetParam().overrides).problems();
  ASSERT_EQ(problems.size(), 1u) << testing::PrintToString(problems);
  EXPECT_NE(problems[0].find(GetParam().problem), std::string::npos) << problems[0];
}

TEST(RunConfig, EmulatedNodesHoldEquallyManyRanks) {
  RunConfig config = load_run_config("", {"comm.emulate.nodes=2", "train.global_batch_size=96"});
  EXPECT_NO_THROW(validate_ranks(config, 4));
  EXPECT_NE(error_of<ConfigError>([&] {
              validate_ranks(config, 3);
            }).find("comm.emulate.nodes = 2 does not divide the 3 ranks"),
            std::string::npos);
  config.parallel.ranks_per_node = 2;
  EXPECT_NO_THROW(validate_ranks(config, 4));
  config.parallel.ranks_per_node = 1;
  EXPECT_NE(error_of<ConfigError>([&] {
              validate_ranks(config, 4);
            }).find("comm.emulate.nodes = 2 contradicts parallel.ranks_per_node = 1"),
            std::string::npos);
}

TEST(RunConfig, LetsSeveralRanksHaveAGpuEachOrNone) {
  const auto problem = [](const char* device, const char* backend, const char* exchange = "auto") {
    RunConfig config;
    config.parallel.exchange.type = exchange;
    config.train.device = device;
    config.comm.backend = backend;
    config.train.micro_batch_size = 1;
    config.train.global_batch_size = 2;
    return error_of<ConfigError>([&] { validate_ranks(config, 2); });
  };
  EXPECT_NE(problem("cuda", "nccl", "dedup").find("set it to \"flat\""), std::string::npos);
  EXPECT_NE(problem("cuda:1", "auto").find("set it to \"cuda\""), std::string::npos);
  EXPECT_NE(problem("cuda", "mpi").find("set it to \"nccl\" or \"auto\""), std::string::npos);
  EXPECT_NE(problem("cpu", "nccl").find("set train.device = \"cuda\""), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(
    Model, Problem,
    testing::Values(
        WrongSetting{{"model.hidden_size=0"}, "model.hidden_size = 0 must be positive"},
        WrongSetting{{"model.num_hidden_layers=0"}, "model.num_hidden_layers = 0 must be positive"},
        WrongSetting{{"model.num_attention_heads=0"},
                     "model.num_attention_heads = 0 must be positive"},
        WrongSetting{{"model.intermediate_size=-1"},
                     "model.intermediate_size = -1 must be positive"},
        WrongSetting{{"model.vocab_size=-1"},
                     "model.vocab_size = -1 must be 0 or more, and finite"},
        WrongSetting{{"model.hidden_size=260"}, "model.hidden_size = 260 is not divisible by"},
        WrongSetting{{"model.num_key_value_heads=3"},
                     "is not a multiple of model.num_key_value_heads = 3"},
        WrongSetting{{"model.head_dim=7"}, "model.head_dim = 7 must be even"},
        WrongSetting{{"model.hidden_act=relu"}, "model.hidden_act = \"relu\""},
        WrongSetting{{"model.qk_norm=heads"}, "did you mean head?"},
        WrongSetting{{"model.norm_type=rmsnor"}, "did you mean rmsnorm?"},
        WrongSetting{{"model.position_embedding_type=alibi"}, "one of rope, learned"},
        WrongSetting{{"model.rope_scaling=yarn"}, "model.rope_scaling = \"yarn\""},
        WrongSetting{{"model.rope_scaling_factor=0.5"},
                     "model.rope_scaling_factor = 0.5 must be at least 1"},
        WrongSetting{{"model.rope_theta=0.0"}, "model.rope_theta = 0"},
        WrongSetting{{"model.norm_eps=nan"}, "model.norm_eps = nan must be positive"},
        WrongSetting{{"model.initializer_range=0.0"}, "model.initializer_range = 0"},
        WrongSetting{{"model.hidden_dropout=1.0"},
                     "model.hidden_dropout = 1 must be at least 0 and below 1"},
        WrongSetting{{"model.embedding_dropout=-0.1"}, "model.embedding_dropout = -0.1"},
        WrongSetting{{"data.sequence_length=4096"},
                     "is over model.max_position_embeddings = 2048"}));

INSTANTIATE_TEST_SUITE_P(
    Moe, Problem,
    testing::Values(
        WrongSetting{{"moe.num_experts=-1"}, "moe.num_experts = -1 must be 0 or more, and finite"},
        WrongSetting{{"moe.num_experts=1"}, "moe.router.top_k = 2"},
        WrongSetting{{"moe.router.top_k=0"}, "moe.router.top_k = 0"},
        WrongSetting{{"moe.router.capacity_factor=-1.0"}, "moe.router.capacity_factor = -1"},
        WrongSetting{{"moe.router.drop_policy=prob"}, "moe.router.drop_policy = \"prob\""},
        WrongSetting{{"moe.router.aux_loss_scope=batch"}, "moe.router.aux_loss_scope = \"batch\""},
        WrongSetting{{"moe.router.aux_loss_coeff=-0.1"}, "moe.router.aux_loss_coeff = -0.1"},
        WrongSetting{{"moe.router.z_loss_coeff=-0.1"}, "moe.router.z_loss_coeff = -0.1"},
        WrongSetting{{"moe.router.type=swich"}, "did you mean switch?"},
        WrongSetting{{"moe.router.type=switch", "moe.switch.jitter=2.0"}, "jitter = 2"},
        WrongSetting{{"moe.intermediate_size=0"}, "moe.intermediate_size = 0 must be positive"},
        WrongSetting{{"moe.layer_freq=0"}, "moe.layer_freq = 0 must be positive"},
        WrongSetting{{"moe.layers=[9]"}, "moe.layers names layer 9; model.num_hidden_layers = 4"},
        WrongSetting{{"moe.shared_expert_gate=true"},
                     "moe.shared_expert_gate needs a shared expert"},
        WrongSetting{{"moe.shared_expert_scope=unclaimed"},
                     "moe.shared_expert_scope = \"unclaimed\" needs a shared expert"},
        WrongSetting{{"moe.experts=groupd"}, "did you mean grouped?"}));

INSTANTIATE_TEST_SUITE_P(
    Training, Problem,
    testing::Values(
        WrongSetting{{"data.sequence_length=0"}, "data.sequence_length = 0 must be positive"},
        WrongSetting{{"data.prefetch=-1"}, "data.prefetch = -1 must be 0 or more, and finite"},
        WrongSetting{{"data.train=[\"a\"]", "data.train_weights=[0.5, 0.5]"},
                     "2 numbers for 1 datasets"},
        WrongSetting{{"data.train=[\"a\"]", "data.train_weights=[0.0]"},
                     "data.train_weights are all 0"},
        WrongSetting{{"train.output_dir=\"\""}, "train.output_dir must name a folder"},
        WrongSetting{{"train.max_steps=0"}, "train.max_steps = 0 must be positive"},
        WrongSetting{{"train.micro_batch_size=3"},
                     "is not a multiple of train.micro_batch_size = 3"},
        WrongSetting{{"train.dtype=float16"}, "train.dtype = \"float16\""},
        WrongSetting{{"train.device=gpu"}, "train.device = \"gpu\" is not a device"},
        WrongSetting{{"train.loss_spike_factor=0.5"},
                     "train.loss_spike_factor = 0.5 must be over 1"},
        WrongSetting{{"train.clip_grad=-1.0"}, "train.clip_grad = -1"},
        WrongSetting{{"comm.emulate.nodes=-1"}, "comm.emulate.nodes = -1 must be 0 or more"},
        WrongSetting{{"comm.emulate.latency_us=-5.0"},
                     "comm.emulate.latency_us = -5 must be 0 to 1e6"},
        WrongSetting{{"comm.emulate.intra_latency_us=1e7"}, "comm.emulate.intra_latency_us = "},
        WrongSetting{{"comm.emulate.gbit_per_s=1e-4"}, "must be 0 (takes no time) or 1e-3 to 1e6"},
        WrongSetting{{"comm.emulate.intra_gbit_per_s=nan"}, "comm.emulate.intra_gbit_per_s = nan"},
        WrongSetting{{"optimizer.type=adam"}, "did you mean adamw?"},
        WrongSetting{{"optimizer.adam_beta2=1.0"}, "optimizer.adam_beta2 = 1"},
        WrongSetting{{"optimizer.adam_eps=0.0"}, "optimizer.adam_eps = 0"},
        WrongSetting{{"lr_schedule.type=cosin"}, "did you mean cosine?"},
        WrongSetting{{"lr_schedule.min_lr=1.0"}, "lr_schedule.min_lr = 1 is over lr_schedule.lr"},
        WrongSetting{{"lr_schedule.warmup_steps=-1"}, "lr_schedule.warmup_steps = -1"},
        WrongSetting{{"checkpoint.keep_last=-1"}, "checkpoint.keep_last = -1"},
        WrongSetting{{"checkpoint.max_shard_bytes=0"}, "checkpoint.max_shard_bytes = 0"},
        WrongSetting{{"log.interval=0"}, "log.interval = 0 must be positive"},
        WrongSetting{{"eval.batch_size=0"}, "eval.batch_size = 0 must be positive"}));

}  // namespace
}  // namespace locus::app
