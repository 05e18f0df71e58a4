// Whole models whose optimisers' state is spread over ranks (ZeRO-1): steps, skipped steps and
// checkpoints.

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <mutex>

#include "locus/base/error.h"
#include "locus/comm/thread_ranks.h"
#include "locus/io/safetensors.h"
#include "locus/train/layout_trace.h"
#include "locus/train/train_step.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_folder.h"
#include "tests/support/tiny_run.h"

namespace locus::train {
namespace {

using test::TempFolder;

comm::ParallelConfig parallel_config(int64_t ep, bool distributed) {
  comm::ParallelConfig config;
  config.expert_model_parallel_size = ep;
  config.use_distributed_optimizer = distributed;
  return config;
}

std::shared_ptr<const data::SampleSource> tiny_source(const TempFolder& folder) {
  return std::make_shared<const data::SampleSource>(
      std::vector{test::make_tiny_dataset(folder.path(), 4000)}, std::vector<double>{},
      test::tiny_data_config(), 3);
}

TraceConfig trace_config() {
  TraceConfig config;
  config.transformer = test::tiny_transformer_config();
  config.transformer.model.hidden_dropout = 0.1;
  config.transformer.moe.shared_expert_intermediate_size = 16;
  config.train.micro_batch_size = 12;
  config.train.global_batch_size = 24;
  return config;
}

std::vector<TraceStep> trace(const std::string& text, bool distributed, const TraceConfig& config,
                             const std::shared_ptr<const data::SampleSource>& source) {
  return trace_layout(parse_layout(distributed ? text + ":zero1" : text), config, source);
}

TEST(DistributedOptimizerLayouts, TrainTheModelOfOneRankWithClippedGradients) {
  const TempFolder folder;
  const auto source = tiny_source(folder);
  TraceConfig config = trace_config();
  config.train.clip_grad = 0.05;
  const auto expected = trace("1", false, config, source);
  EXPECT_GT(expected.front().grad_norm, 0.05) << "clipping would do nothing";
  for (const char* layout : {"dp2", "dp3", "ep2", "ep4", "ep2dp2"}) {
    const TraceDifference difference =
        compare_traces(expected, trace(layout, true, config, source), 1e-9);
    EXPECT_EQ(difference.step, 0) << layout << ": " << difference.what << " by "
                                  << difference.relative;
  }
}

// Of two numbers there is one sum.
TEST(DistributedOptimizerLayouts, OfTwoRanksAGroupTrainBitForBitLikeWholeStates) {
  const TempFolder folder;
  const auto source = tiny_source(folder);
  for (const bool float64 : {false, true}) {
    TraceConfig config = trace_config();
    config.float64 = float64;
    config.train.clip_grad = 0;
    config.num_steps = 2;
    for (const char* layout : {"dp2", "ep2"}) {
      const auto expected = trace(layout, false, config, source);
      const auto found = trace(layout, true, config, source);
      for (size_t step = 0; step < expected.size(); ++step) {
        EXPECT_EQ(expected[step].loss, found[step].loss) << layout;
        for (const auto& [name, value] : expected[step].parameters)
          EXPECT_TRUE(at::equal(value, found[step].parameters.at(name))) << layout << " " << name;
      }
    }
  }
}

// One rank of a small run.
struct RankRun {
  RankRun(const comm::ParallelContext& context, uint64_t seed)
      : parallel(context),
        transformer(config_of(context, seed)),
        optimizer(make_optimizer({}, named_parameters(transformer), context)),
        step(transformer, *optimizer, {}, at::kCPU) {
    at::set_num_threads(1);
  }

  static model::TransformerConfig config_of(const comm::ParallelContext& context, uint64_t seed) {
    model::TransformerConfig config = test::tiny_transformer_config();
    config.seed = seed;
    config.parallel = context;
    return config;
  }

  StepResult train(const data::SampleSource& source) {
    const int64_t size = 12 / parallel.world_size;
    const StepResult result = step.run(
        {source.training_batch(state.step * 12 + parallel.rank * size, size)}, 1e-2, state);
    ++state.step;
    return result;
  }

  void save(const fs::path& folder) {
    CheckpointWriter writer(folder, {}, parallel);
    writer.save(transformer, *optimizer, state, {});
    writer.wait();
  }

  void load(const fs::path& folder) {
    const CheckpointRef found = resolve_checkpoint(folder);
    load_model(found, transformer);
    load_optimizer(found, *optimizer, transformer);
    state = load_trainer_state(found);
  }

  comm::ParallelContext parallel;
  model::Transformer transformer;
  std::unique_ptr<Optimizer> optimizer;
  TrainStep step;
  TrainerState state;
};

TEST(DistributedOptimizerSteps, ASkippedOneLeavesParametersAndStateAlone) {
  const TempFolder folder;
  const auto source = tiny_source(folder);
  // With a NaN in one value of the gradient of one rank in the second of three steps.
  const auto parameters_after = [&](bool distributed) {
    NamedTensors out;
    comm::run_thread_ranks(
        2, parallel_config(1, distributed), [&](const comm::ParallelContext& context) {
          RankRun run(context, 7);
          EXPECT_EQ(run.train(*source).skipped, "");
          const NamedTensors parameters = named_parameters(run.transformer);
          NamedTensors before;
          for (const auto& [name, value] : parameters) before.emplace_back(name, value.clone());
          for (const auto& [name, value] : run.optimizer->state())
            before.emplace_back(name, value.clone());
          const at::Tensor norm = run.transformer.named_parameters()["norm.weight"];
          const unsigned hook = norm.register_hook([&](at::Tensor gradient) {
            gradient = gradient.clone();
            if (context.rank == 1) gradient[31] = NAN;
            return gradient;
          });
          EXPECT_NE(run.train(*source).skipped.find("the gradient's norm is"), std::string::npos);
          NamedTensors after = parameters;
          for (const auto& one : run.optimizer->state()) after.push_back(one);
          for (size_t i = 0; i < before.size(); ++i)
            EXPECT_TRUE(at::equal(before[i].second, after[i].second)) << before[i].first;
          norm.remove_hook(hook);
          EXPECT_EQ(run.train(*source).skipped, "");
          EXPECT_EQ(run.state.skipped_steps, 1);
          if (context.rank == 1) out = parameters;
        });
    return out;
  };
  const NamedTensors whole = parameters_after(false);
  const NamedTensors parts = parameters_after(true);
  for (size_t i = 0; i < whole.size(); ++i) {
    EXPECT_TRUE(at::allclose(whole[i].second, parts[i].second, 1e-5, 1e-6)) << whole[i].first;
  }
}

// All tensors of a checkpoint, whichever files they lie in.
std::map<std::string, std::string> content(const fs::path& folder) {
  std::map<std::string, std::string> out;
  for (const auto& entry : fs::directory_iterator(resolve_checkpoint(folder).path)) {
    if (entry.path().extension() != ".safetensors") continue;
    const io::SafetensorsFile file(entry.path());
    for (const io::TensorView& view : file.tensors()) {
      const auto* data = reinterpret_cast<const char*>(view.data.data());
      const bool is_new = out.emplace(view.name + model::shape_text(view.shape),
                                      std::string(data, view.data.size()))
                              .second;
      EXPECT_TRUE(is_new) << view.name << " is there twice";
    }
  }
  return out;
}

TEST(DistributedOptimizerCheckpoints, AnyLayoutWithAnyStateReadsAnyOthersBitForBit) {
  const TempFolder data, scratch;
  const auto source = tiny_source(data);
  const auto folder = [&](int stage) { return scratch.path() / std::to_string(stage); };
  comm::run_thread_ranks(4, parallel_config(2, true), [&](const comm::ParallelContext& context) {
    RankRun run(context, 7);
    for (int i = 0; i < 3; ++i) EXPECT_EQ(run.train(*source).skipped, "");
    run.save(folder(0));
  });
  const auto expected = content(folder(0));
  const std::string step = expected.at("step.norm.weight[]");
  EXPECT_EQ(*reinterpret_cast<const float*>(step.data()), 3.0f);
  EXPECT_TRUE(expected.contains("exp_avg_sq.layers.1.moe.experts.3.down_proj[32, 48]"));
  struct Stage {
    int64_t world_size, ep;
    bool distributed;
  };
  int stage = 0;
  for (const auto& [world_size, ep, distributed] :
       {Stage{1, 1, false}, Stage{3, 1, true}, Stage{4, 4, true}, Stage{4, 2, false},
        Stage{2, 2, true}, Stage{4, 1, true}, Stage{1, 1, true}, Stage{4, 2, true}}) {
    comm::run_thread_ranks(world_size, parallel_config(ep, distributed),
                           [&](const comm::ParallelContext& context) {
                             RankRun run(context, 99);
                             run.load(folder(stage));
                             run.save(folder(stage + 1));
                           });
    ++stage;
    EXPECT_TRUE(content(folder(stage)) == expected) << "after stage " << stage;
  }
}

TEST(DistributedOptimizerCheckpoints, AResumedRunContinuesBitForBit) {
  const TempFolder data, scratch;
  const auto source = tiny_source(data);
  const auto parameters_after = [&](bool interrupted) {
    std::map<std::string, at::Tensor> out;
    std::mutex mutex;
    comm::run_thread_ranks(4, parallel_config(2, true), [&](const comm::ParallelContext& context) {
      auto run = std::make_unique<RankRun>(context, 7);
      for (int i = 0; i < 2; ++i) run->train(*source);
      if (interrupted) {
        run->save(scratch.path());
        run = std::make_unique<RankRun>(context, 99);
        run->load(scratch.path());
      }
      for (int i = 0; i < 2; ++i) run->train(*source);
      const std::lock_guard lock(mutex);
      for (const auto& [name, value] : named_parameters(run->transformer))
        out.emplace(format("{} of rank {}", name, context.rank), value.detach());
    });
    return out;
  };
  const auto expected = parameters_after(false);
  for (const auto& [name, value] : parameters_after(true))
    EXPECT_TRUE(at::equal(value, expected.at(name))) << name;
}

// Each rank writes about as much of the state as any other.
TEST(DistributedOptimizerCheckpoints, AreWrittenByAllRanks) {
  const TempFolder scratch;
  comm::run_thread_ranks(4, parallel_config(2, true), [&](const comm::ParallelContext& context) {
    RankRun(context, 7).save(scratch.path());
  });
  std::vector<uintmax_t> sizes;
  for (const auto& entry : fs::directory_iterator(resolve_checkpoint(scratch.path()).path)) {
    if (entry.path().filename().string().starts_with("optimizer-"))
      sizes.push_back(fs::file_size(entry.path()));
  }
  ASSERT_EQ(sizes.size(), 4u);
  const auto [least, most] = std::minmax_element(sizes.begin(), sizes.end());
  EXPECT_LT(*most, 2 * *least);
}

TEST(DistributedOptimizerCheckpoints, OfAnotherShapeNameTheTensorAndBothShapes) {
  const TempFolder scratch;
  RankRun run(comm::alone(), 7);
  run.save(scratch.path());
  auto wider = test::tiny_transformer_config();
  wider.moe.intermediate_size = 56;
  model::Transformer transformer(wider);
  const auto optimizer = make_optimizer({}, named_parameters(transformer));
  const std::string message = test::error_of<DataError>(
      [&] { load_optimizer(resolve_checkpoint(scratch.path()), *optimizer, transformer); });
  EXPECT_NE(message.find("the optimiser needs"), std::string::npos) << message;
  EXPECT_NE(message.find("[112, 32]"), std::string::npos) << message;
}

}  // namespace
}  // namespace locus::train
