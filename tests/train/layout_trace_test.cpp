#include "locus/train/layout_trace.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <numeric>
#include <optional>

#include "locus/base/error.h"
#include "locus/base/toml.h"
#include "locus/data/domain_counts.h"
#include "locus/moe/experts.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_folder.h"
#include "tests/support/tiny_run.h"

namespace locus::train {
namespace {

std::shared_ptr<const data::SampleSource> tiny_source(const test::TempFolder& folder) {
  return std::make_shared<const data::SampleSource>(
      std::vector{test::make_tiny_dataset(folder.path(), 4000)}, std::vector<double>{},
      test::tiny_data_config(), 3);
}

// Everything random or limited that a router and a model have, two micro-batches a step.
TraceConfig hard_config(const std::string& router) {
  TraceConfig config;
  config.transformer = test::tiny_transformer_config(router);
  config.transformer.model.hidden_dropout = 0.1;
  config.transformer.moe.router.capacity_factor = 1.0;
  config.transformer.moe.router.z_loss_coeff = router == "hash" ? 0.0 : 0.001;
  config.transformer.moe.shared_expert_intermediate_size = 16;
  if (router == "locmoe") {
    config.transformer.moe.shared_expert_scope = "unclaimed";
    for (const Field& field : config.transformer.router_options.fields()) {
      if (field.path == "noise_std") *std::get<double*>(field.value) = 0.1;
      if (field.path == "bias_update_rate") *std::get<double*>(field.value) = 0.05;
      if (field.path == "output_weight") *std::get<std::string*>(field.value) = "straight_through";
    }
  }
  config.train.micro_batch_size = 4;
  config.train.global_batch_size = 8;
  config.train.max_steps = config.num_steps;  // what routers change over a training, they change
  return config;
}

class EveryLayout
    : public testing::TestWithParam<std::tuple<std::string, std::string, std::string>> {};

// gtest takes letters, digits and underscores.
std::string name_of(
    const testing::TestParamInfo<std::tuple<std::string, std::string, std::string>>& one) {
  std::string name =
      std::get<0>(one.param) + "_" + std::get<1>(one.param) + "_" + std::get<2>(one.param);
  std::replace(name.begin(), name.end(), ':', '_');
  return name;
}

TEST_P(EveryLayout, TrainsTheSameModelAsOneRank) {
  const auto& [router, layout, scope] = GetParam();
  const test::TempFolder folder;
  const auto source = tiny_source(folder);
  TraceConfig config = hard_config(router);
  config.transformer.moe.router.aux_loss_scope = scope;
  const auto expected = trace_layout(parse_layout("1"), config, source);
  const auto found = trace_layout(parse_layout(layout), config, source);
  const TraceDifference difference = compare_traces(expected, found, 1e-9);
  EXPECT_EQ(difference.step, 0) << "step " << difference.step << ", " << difference.what << ": "
                                << difference.relative;
  EXPECT_GT(expected.front().grad_norm, 0);
  // Bit for bit the second time.
  EXPECT_EQ(compare_traces(found, trace_layout(parse_layout(layout), config, source), 0).largest,
            0);
}

INSTANTIATE_TEST_SUITE_P(Routers, EveryLayout,
                         testing::Combine(testing::ValuesIn(moe::router_names()),
                                          testing::Values("dp2", "ep2", "ep4", "ep2dp2"),
                                          testing::Values("micro_batch")),
                         name_of);

INSTANTIATE_TEST_SUITE_P(Exchanges, EveryLayout,
                         testing::Combine(testing::ValuesIn(moe::router_names()),
                                          testing::Values("ep4:hierarchical:chunks2",
                                                          "ep4:dedup:chunks2", "ep2dp2:dedup:zero1",
                                                          "ep2:flat:chunks2"),
                                          testing::Values("micro_batch")),
                         name_of);

INSTANTIATE_TEST_SUITE_P(Scopes, EveryLayout,
                         testing::Combine(testing::Values("top_k"), testing::Values("ep2dp2"),
                                          testing::Values("sequence", "global_batch")),
                         [](const auto& one) { return std::get<2>(one.param); });

// An encoder, whose sequences have different numbers of masked tokens, and an encoder-decoder.
class KindsOfModels
    : public testing::TestWithParam<std::tuple<std::string, std::string, std::string>> {};

TEST_P(KindsOfModels, TrainTheSameModelAsOneRank) {
  const auto& [router, layout, kind] = GetParam();
  const bool is_encoder = kind == "encoder";
  const test::TempFolder folder;
  std::optional<data::Masking> masking;
  if (is_encoder) {
    masking = {.share = 0.15,
               .mask_id = 1,
               .eod_id = test::kTinyEod,
               .vocab_size = test::kTinyVocabulary,
               .begins_word = {}};
  }
  const auto source = std::make_shared<const data::SampleSource>(
      std::vector{test::make_tiny_dataset(folder.path(), 4000, 1, /*has_pairs=*/!is_encoder)},
      std::vector<double>{}, test::tiny_data_config(), 3, masking);
  TraceConfig config = hard_config(router);
  config.transformer.model.num_hidden_layers = is_encoder ? 2 : 4;
  config.transformer.model.num_encoder_layers = 2;
  config.transformer.moe.layer_freq = 2;
  config.train.label_smoothing = 0.1;
  const auto expected = trace_layout(parse_layout("1"), config, source);
  const TraceDifference difference =
      compare_traces(expected, trace_layout(parse_layout(layout), config, source), 1e-9);
  EXPECT_EQ(difference.step, 0) << "step " << difference.step << ", " << difference.what << ": "
                                << difference.relative;
}

INSTANTIATE_TEST_SUITE_P(
    Layouts, KindsOfModels,
    testing::Combine(testing::Values("switch", "base_layer", "dense_to_sparse", "locmoe_plus"),
                     testing::Values("ep4", "ep2dp2:dedup:zero1", "ep4:hierarchical:chunks2",
                                     "ep4:placed:moved"),
                     testing::Values("encoder", "encoder_decoder")),
    name_of);

// Sequences and experts change ranks at every step; domains own experts where the router heeds
// them.
class PlacedSequences : public testing::TestWithParam<std::tuple<std::string, std::string>> {};

TEST_P(PlacedSequences, TrainTheSameModelWhereverTheyAre) {
  const auto& [router, drop_policy] = GetParam();
  const test::TempFolder folder;
  const auto source = tiny_source(folder);
  TraceConfig config = hard_config(router);
  config.transformer.moe.router.drop_policy = drop_policy;
  if (!moe::find_router(router)
           .validate(config.transformer.moe.router, config.transformer.moe.num_experts,
                     config.transformer.router_options)
           .empty()) {
    GTEST_SKIP() << router << " chooses by score alone";
  }
  config.train.micro_batch_size = 8;
  config.train.global_batch_size = 16;
  config.num_steps = config.train.max_steps = 4;
  if (moe::find_router(router).heeds_domain_groups) {
    config.transformer.moe.domain_groups = {"left = 0-1", "right = 2-3"};
    config.transformer.domain_token_counts =
        data::token_counts(*source, {"left", "right"}, config.transformer.model.vocab_size);
  }
  const auto expected = trace_layout(parse_layout("1"), config, source);
  for (const char* layout :
       {"ep4:placed", "ep2dp2:placed:moved", "ep4:placed:moved:dedup:chunks2"}) {
    std::atomic<bool> placed = false;
    config.hooks.batches = [&](const comm::ParallelContext&, std::vector<data::Batch>& batches) {
      for (const data::Batch& batch : batches) placed = placed || batch.is_placed;
    };
    const TraceDifference difference =
        compare_traces(expected, trace_layout(parse_layout(layout), config, source), 1e-9);
    EXPECT_EQ(difference.step, 0) << layout << ": step " << difference.step << ", "
                                  << difference.what << ": " << difference.relative;
    EXPECT_TRUE(placed) << layout;
  }
}

INSTANTIATE_TEST_SUITE_P(Routers, PlacedSequences,
                         testing::Combine(testing::ValuesIn(moe::router_names()),
                                          testing::Values("probs", "position", "random")),
                         [](const auto& one) {
                           return std::get<0>(one.param) + "_" + std::get<1>(one.param);
                         });

// What capacity the policies find is of the tokens of all ranks.
TEST(Layouts, AgreeOnTheCapacityOfEachPolicy) {
  const test::TempFolder folder;
  const auto source = tiny_source(folder);
  for (const char* policy : {"bound", "target_drop"}) {
    for (const bool recompute : {false, true}) {
      TraceConfig config = hard_config("locmoe");
      config.transformer.moe.router.top_k = 1;
      config.transformer.moe.router.capacity_factor = 0;
      config.transformer.recompute = recompute;
      read_toml("test", format("capacity_policy = \"{}\"\ntarget_drop_share = 0.2\n", policy), {},
                config.transformer.router_options.fields());
      const auto expected = trace_layout(parse_layout("1"), config, source);
      for (const char* layout : {"dp2", "ep4:placed:moved", "dp2:moved"}) {
        const TraceDifference difference =
            compare_traces(expected, trace_layout(parse_layout(layout), config, source), 1e-9);
        EXPECT_EQ(difference.step, 0)
            << policy << " " << layout << ", " << difference.what << ": " << difference.relative;
      }
    }
  }
  EXPECT_THROW(trace_layout(parse_layout("ep2dp2:zero1:moved"), hard_config("top_k"), source),
               ConfigError);
}

// One expert a rank, and tokens that leave some of them without a row.
TEST(Layouts, AgreeWhereExpertsHaveNoRows) {
  const test::TempFolder folder;
  auto data = test::tiny_data_config(2);
  const auto source = std::make_shared<const data::SampleSource>(
      std::vector{test::make_tiny_dataset(folder.path(), 4000)}, std::vector<double>{}, data, 3);
  for (const std::string& kernel : moe::expert_kernel_names()) {
    TraceConfig config;
    config.transformer = test::tiny_transformer_config("switch");
    config.transformer.moe.experts = kernel;
    config.train.micro_batch_size = config.train.global_batch_size = 4;
    const auto expected = trace_layout(parse_layout("1"), config, source);
    const TraceDifference difference =
        compare_traces(expected, trace_layout(parse_layout("ep4"), config, source), 1e-9);
    EXPECT_EQ(difference.step, 0) << kernel << ", " << difference.what << ": "
                                  << difference.relative;
  }
}

TEST(Layouts, AgreeWithRecomputationAndFloat32) {
  const test::TempFolder folder;
  const auto source = tiny_source(folder);
  TraceConfig config = hard_config("top_k");
  config.transformer.recompute = true;
  config.float64 = false;
  const auto expected = trace_layout(parse_layout("1"), config, source);
  for (const char* layout : {"ep2dp2", "ep4:hierarchical:chunks2", "ep4:dedup"}) {
    const TraceDifference difference =
        compare_traces(expected, trace_layout(parse_layout(layout), config, source), 2e-5);
    EXPECT_EQ(difference.step, 0) << layout << ", " << difference.what << ": "
                                  << difference.relative;
  }
}

// What the proof is for: faults that training alone would hide.
class PlantedFault : public testing::Test {
 protected:
  // What differs first when `layout` runs with the fault; "" where nothing does.
  std::string first_difference(const TraceHooks& hooks, const std::string& layout = "ep2dp2") {
    const test::TempFolder folder;
    const auto source = tiny_source(folder);
    TraceConfig config = hard_config("top_k");
    const auto expected = trace_layout(parse_layout("1"), config, source);
    config.hooks = hooks;
    const TraceDifference difference =
        compare_traces(expected, trace_layout(parse_layout(layout), config, source), 1e-9);
    EXPECT_LE(difference.step, 1) << "not found in the first step";
    return difference.what;
  }
};

TEST_F(PlantedFault, NoneIsFoundWhereThereIsNone) { EXPECT_EQ(first_difference({}), ""); }

TEST_F(PlantedFault, AWrongCombineWeightIsSeenInTheLoss) {
  TraceHooks hooks;
  hooks.shape = [](model::TransformerConfig& shape) {
    read_toml("fault", "routed_scaling_factor = 1.01", {}, shape.router_options.fields());
  };
  EXPECT_EQ(first_difference(hooks), "loss");
}

TEST_F(PlantedFault, AnExpertsGradientWithoutItsFactorIsNamed) {
  TraceHooks hooks;
  hooks.model = [](const comm::ParallelContext& context, model::Transformer& transformer) {
    if (context.rank != 3) return;
    at::Tensor weight = transformer.named_parameters()["layers.1.moe.experts.down_proj"];
    weight.register_hook([](at::Tensor gradient) {
      gradient = gradient.clone();
      gradient[0].mul_(0.5);
      return gradient;
    });
  };
  // The norm differs first; without it, rank 3's first expert would be: number 2 of its layer.
  EXPECT_EQ(first_difference(hooks), "gradient norm");
}

TEST_F(PlantedFault, DropoutThatIsTheSameOnAllRanksIsSeenInTheLoss) {
  TraceHooks hooks;
  hooks.batches = [](const comm::ParallelContext&, std::vector<data::Batch>& batches) {
    for (data::Batch& batch : batches) {
      std::iota(batch.global_sequence_index.begin(), batch.global_sequence_index.end(), 0);
    }
  };
  EXPECT_EQ(first_difference(hooks), "loss");
}

TEST_F(PlantedFault, ABalanceLossOfEachRankAloneIsSeen) {
  TraceHooks hooks;
  hooks.shape = [](model::TransformerConfig& shape) {
    shape.moe.router.aux_loss_scope = "sequence";
  };
  EXPECT_EQ(first_difference(hooks), "router loss");
}

TEST_F(PlantedFault, ARankWhoseWeightsDriftOffIsNamed) {
  TraceHooks hooks;
  hooks.model = [](const comm::ParallelContext& context, model::Transformer& transformer) {
    const at::NoGradGuard no_grad;
    if (context.rank == 1) transformer.named_parameters()["norm.weight"].mul_(1 + 1e-3);
  };
  EXPECT_EQ(first_difference(hooks, "dp2"), "loss");
}

TEST(Layouts, AreReadFromTheirNames) {
  EXPECT_EQ(parse_layout("ep4dp2").world_size(), 8);
  EXPECT_EQ(parse_layout("dp3").ep, 1);
  const LayoutName named = parse_layout("ep4:dedup:chunks2:zero1");
  EXPECT_EQ(named.exchange, "dedup");
  EXPECT_EQ(named.chunks, 2);
  EXPECT_TRUE(named.zero1);
  EXPECT_EQ(parse_layout("1").world_size(), 1);
  for (const char* wrong : {"", "2", "ep", "ep0", "dp2ep2", "ep2 ", "ep-1", "ep2x",
                            "ep2:", ":dedup", "ep2:other", "ep2:chunks", "ep2:chunks0"}) {
    EXPECT_NE(test::error_of<ConfigError>([&] { parse_layout(wrong); }).find("is not a layout"),
              std::string::npos)
        << wrong;
  }
}

TEST(CompareTraces, NameTheFirstThingThatDiffers) {
  TraceStep step{1.0, 0.5, 2.0, {{"a", at::ones({2}, at::kDouble)}}};
  std::vector<TraceStep> expected{step, step}, found{step, step};
  EXPECT_EQ(compare_traces(expected, found, 0).largest, 0);
  found[1].parameters["a"] = at::tensor({1.0, 1.25}, at::kDouble);
  TraceDifference difference = compare_traces(expected, found, 1e-9);
  EXPECT_EQ(difference.step, 2);
  EXPECT_EQ(difference.what, "a");
  EXPECT_DOUBLE_EQ(difference.relative, 0.25);
  found[0].loss = std::nan("");
  difference = compare_traces(expected, found, 1e-9);
  EXPECT_EQ(difference.step, 1);
  EXPECT_EQ(difference.what, "loss");
  found[0] = step;
  found[0].parameters.clear();
  EXPECT_EQ(compare_traces(expected, found, 1e-9).step, 1);
}

}  // namespace
}  // namespace locus::train
