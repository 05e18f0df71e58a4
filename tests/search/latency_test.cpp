#include "locus/search/latency.h"

#include <gtest/gtest.h>

#include "locus/base/error.h"
#include "locus/search/choice.h"
#include "locus/search/cost_model.h"
#include "tests/search/search_helpers.h"
#include "tests/support/expect_error.h"

namespace locus::search {
namespace {

TEST(LatencyGrid, IsLinearBetweenItsPointsAndFlatBeyond) {
  const LatencyGrid grid{{{1, 3}, {10, 20, 40}}, {1, 2, 4, 3, 4, 6}};
  EXPECT_DOUBLE_EQ(grid.at({1, 10}), 1);
  EXPECT_DOUBLE_EQ(grid.at({3, 40}), 6);
  EXPECT_DOUBLE_EQ(grid.at({2, 10}), 2);
  EXPECT_DOUBLE_EQ(grid.at({1, 30}), 3);
  EXPECT_DOUBLE_EQ(grid.at({2, 15}), 2.5);
  EXPECT_DOUBLE_EQ(grid.at({0, 100}), 4);
}

TEST(LatencyGrid, CanBeMadeToRise) {
  LatencyGrid rising{{{1, 2}, {1, 2, 3}}, {1, 2, 3, 4, 5, 6}};
  const std::vector<double> before = rising.seconds;
  rising.make_rising();
  EXPECT_EQ(rising.seconds, before);
  LatencyGrid line{{{1, 2, 3, 4}}, {1, 4, 2, 5}};  // 4 and 2 are taken for noise
  line.make_rising();
  EXPECT_EQ(line.seconds, (std::vector<double>{1, 3, 3, 5}));
  LatencyGrid grid{{{1, 2, 3}, {1, 2, 3}}, {5, 1, 3, 9, 2, 4, 4, 8, 7}};
  grid.make_rising();
  for (size_t i = 0; i < 9; ++i) {
    if (i % 3 > 0) {
      EXPECT_GE(grid.seconds[i], grid.seconds[i - 1]) << i;
    }
    if (i / 3 > 0) {
      EXPECT_GE(grid.seconds[i], grid.seconds[i - 3]) << i;
    }
  }
}

// A head takes 1 s, 10 channels 1 s for each expert of a token.
std::shared_ptr<LatencyTable> table_of(const model::TransformerConfig& config) {
  auto table = std::make_shared<LatencyTable>();
  table->machine = "this";
  table->dtype = "float32";
  table->model = latency_model_text(config.model, config.moe);
  table->num_threads = 1;
  table->constant_s = 2;
  for (const int64_t index : {0, 1}) {
    LayerLatency own = latency_of_whole(model::layer_config(config.model, config.moe, index));
    own.attention = {{{1, static_cast<double>(own.heads)}}, {1, static_cast<double>(own.heads)}};
    const double width = static_cast<double>(own.channels);
    own.feed_forward =
        own.experts == 0 ? LatencyGrid{{{0, width}}, {0, width / 10}}
                         : LatencyGrid{{{0, width}, {1, 2}, {2, 6}},
                                       {0, 0, 0, 0, width / 10, width / 10, width / 5, width / 5}};
    table->layers.push_back(own);
  }
  return table;
}

TEST(Latency, IsAddedUpOverLayersAndLimitsTheChoice) {
  const auto config = tiny_config("top_k", Kind::kDecoder, "norm_topk_prob = false");
  const ArchSpace space(config.model, config.moe, config.router_options, {.block_size = 4});
  const CostModel costs(space, {.sequence_length = 16, .latency = table_of(config)});
  // Four layers of 3 heads; three with 2 of the experts of width 24, one of width 40.
  EXPECT_DOUBLE_EQ(costs.whole(Resource::kLatency), 2 + 4 * 3 + 3 * 4.8 + 4);
  const std::vector<double> ranks =
      proportional_ranks(space, std::vector<double>(space.units().size(), 1.0));
  for (const char* text : {"latency=20s", "latency=0.6", "latency=15000ms"}) {
    const Limit limit = parse_limit(text, costs);
    const Mask mask = choose_units(costs, ranks, {limit}, space.all());
    EXPECT_LE(costs.cost(Resource::kLatency, mask), limit.most) << text;
    EXPECT_GE(costs.cost(Resource::kLatency, mask), 0.9 * limit.most) << text;
  }
  const std::vector<double> all(space.units().size(), 0.7);
  const std::vector<double> slopes = costs.slopes(Resource::kLatency, all);
  for (size_t unit = 0; unit < slopes.size(); ++unit) {
    if (space.units()[unit].kind != UnitKind::kHead) continue;
    EXPECT_NEAR(slopes[unit], 1, 1e-6);
  }
  const CostModel without(space, {.sequence_length = 16});
  EXPECT_THROW(parse_limit("latency=0.5", without), ConfigError);
}

TEST(Latency, ATableComesBackAndIsRefusedElsewhere) {
  const auto config = tiny_config("top_k");
  const LatencyTable table = *table_of(config);
  const LatencyTable again = read_latency_table("t.json", to_json(table));
  EXPECT_EQ(to_json(again), to_json(table));
  const auto check = [&](const LatencyTable& one, const char* machine, const char* dtype,
                         int64_t num_threads) {
    check_latency_table(one, "t.json", machine, dtype, num_threads, config.model, config.moe);
  };
  EXPECT_NO_THROW(check(again, "this", "float32", 1));
  const std::string error =
      test::error_of<ConfigError>([&] { check(again, "another", "float32", 1); });
  EXPECT_NE(error.find("--target t.json: was measured for another machine (this; here: another)"),
            std::string::npos)
      << error;
  EXPECT_THROW(check(again, "this", "bfloat16", 1), ConfigError);
  EXPECT_THROW(check(again, "this", "float32", 2), ConfigError);
  auto shared = config;  // of the same layers, and one more network in each
  shared.moe.shared_expert_intermediate_size = 8;
  EXPECT_THROW(check_latency_table(again, "t.json", "this", "float32", 1, shared.model, shared.moe),
               ConfigError);
  LatencyTable lacking = table;
  lacking.layers.pop_back();
  EXPECT_THROW(check(lacking, "this", "float32", 1), DataError);
  LatencyTable wrong = table;
  wrong.layers[0].feed_forward.axes.pop_back();
  EXPECT_THROW(read_latency_table("t.json", to_json(wrong)), DataError);
  EXPECT_THROW(read_latency_table("t.json", "{}"), DataError);
  EXPECT_THROW(read_latency_table("t.json", "no json"), DataError);
}

}  // namespace
}  // namespace locus::search
