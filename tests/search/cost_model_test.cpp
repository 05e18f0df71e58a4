#include "locus/search/cost_model.h"

#include <gtest/gtest.h>

#include <cmath>

#include "locus/base/error.h"
#include "locus/search/choice.h"
#include "tests/search/search_helpers.h"
#include "tests/support/expect_error.h"

namespace locus::search {
namespace {

constexpr Resource kAll[] = {Resource::kFlops, Resource::kParameters, Resource::kMemory,
                             Resource::kExchange};

struct Model {
  model::TransformerConfig config;
  ArchSpace space;
  CostModel costs;

  explicit Model(const std::string& router = "top_k", Kind kind = Kind::kDecoder,
                 const std::string& options = "norm_topk_prob = false",
                 ArchOptions arch = {5, 0.1, true, 1})
      : config(tiny_config(router, kind, options)),
        space(config.model, config.moe, config.router_options, arch),
        costs(space, {.sequence_length = 16}) {}
};

// P4: what is counted of the smaller model's settings, exactly.
TEST(CostModel, IsTheCostOfWhatIsLeft) {
  for (const Kind kind : {Kind::kDecoder, Kind::kEncoder, Kind::kEncoderDecoder}) {
    for (const char* router : {"top_k", "switch", "stablemoe", "locmoe"}) {
      const Model model(router, kind,
                        router == std::string("top_k") ? "norm_topk_prob = false" : "");
      for (uint64_t seed = 0; seed < 20; ++seed) {
        const Mask mask = random_mask(model.space, seed, 0.6);
        const auto [cut, moe] =
            cut_config(model.config.model, model.config.moe, model.space.to_cut(mask));
        for (const Resource resource : kAll) {
          const double counted = CostModel::of_config(resource, cut, moe, model.costs.settings());
          EXPECT_NEAR(model.costs.cost(resource, mask), counted, 1e-9 * counted)
              << router << " " << resource_name(resource) << " " << seed;
        }
      }
    }
  }
}

// Limits of the router beside top_k, and where slots can go but it limits in another way.
TEST(CostModel, IsThatOfWhatIsLeftWhereRoutersLimitInOtherWays) {
  for (const char* router : {"locmoe_plus", "expert_choice", "gshard", "soft", "dense_to_sparse"}) {
    model::TransformerConfig config = tiny_config(router);
    config.moe.router.top_k = 4;
    if (router == std::string("locmoe_plus")) {
      config.moe.router.capacity_factor = 1.25;
      read_toml("test", "temperature = 1.0\noutput_weight = \"probability\"", {},
                config.router_options.fields());
    }
    const ArchSpace space(config.model, config.moe, config.router_options, {5, 0.1, true, 1});
    const CostModel costs(space, {.sequence_length = 16});
    for (uint64_t seed = 0; seed < 10; ++seed) {
      const Mask mask = random_mask(space, seed, 0.6);
      const auto [cut, moe] = cut_config(config.model, config.moe, space.to_cut(mask));
      const double counted = CostModel::of_config(Resource::kFlops, cut, moe, costs.settings());
      EXPECT_NEAR(costs.cost(Resource::kFlops, mask), counted, 1e-3 * counted) << router << seed;
    }
  }
}

// The worked example of the specification (section 3.6): d 64, 4 heads, 2 layers, 4 experts, top-2,
// width 128, vocabulary 256, context 32. Its head has a bias of 256 values, ours has none; an
// encoder counts the whole square of scores.
TEST(CostModel, HasTheWorkedNumbers) {
  model::TransformerConfig config;
  model::ModelConfig& model = config.model;
  model.vocab_size = 256;
  model.hidden_size = 64;
  model.num_hidden_layers = model.num_encoder_layers = 2;
  model.num_attention_heads = 4;
  model.hidden_act = "gelu";
  model.norm_type = "layernorm";
  model.position_embedding_type = "learned";
  model.max_position_embeddings = 32;
  model.attention_bias = model.attention_output_bias = model.mlp_bias = true;
  config.moe.num_experts = 4;
  config.moe.intermediate_size = 128;
  config.moe.router.type = "top_k";
  config.router_options = moe::find_router("top_k").options();
  read_toml("test", "norm_topk_prob = false", {}, config.router_options.fields());
  const ArchSpace space(model, config.moe, config.router_options, {.block_size = 64});
  const CostModel costs(space, {.sequence_length = 32});
  constexpr double kHeadBias = 256;
  const auto expect = [&](auto drops, double flops, double parameters) {
    Mask mask = space.all();
    for (size_t unit = 0; unit < mask.size(); ++unit) {
      if (drops(space.units()[unit])) mask[unit] = 0;
    }
    EXPECT_DOUBLE_EQ(costs.cost(Resource::kFlops, mask), flops);
    EXPECT_DOUBLE_EQ(costs.cost(Resource::kParameters, mask), parameters - kHeadBias);
  };
  expect([](const Unit&) { return false; }, 246784, 202112);
  expect(
      [](const Unit& unit) {
        return (unit.kind == UnitKind::kHead && unit.index >= 2) ||
               (unit.kind == UnitKind::kBlock && unit.index >= 1);
      },
      140288, 119488);
  expect(
      [](const Unit& unit) {
        return (unit.kind == UnitKind::kExpert && unit.index >= 2) || unit.kind == UnitKind::kSlot;
      },
      180736, 135552);
}

// P5.
TEST(CostModel, OfProbabilitiesIsTheExpectation) {
  const Model model;
  const size_t count = model.space.units().size();
  std::vector<double> p(count);
  for (size_t unit = 0; unit < count; ++unit) {
    p[unit] = 0.2 + 0.7 * static_cast<double>(random_key({3, unit}) >> 11) * 0x1p-53;
  }
  for (const Resource resource : kAll) {
    double sum = 0, squares = 0;
    constexpr int kDraws = 10000;
    for (uint64_t draw = 0; draw < kDraws; ++draw) {
      std::vector<double> mask(count);
      for (size_t unit = 0; unit < count; ++unit) {
        const double u = static_cast<double>(random_key({draw, unit, 7}) >> 11) * 0x1p-53;
        mask[unit] = u < p[unit] ? 1 : 0;
      }
      const double cost = model.costs.cost(resource, model.space.expected_sizes(mask));
      sum += cost;
      squares += cost * cost;
    }
    const double mean = sum / kDraws;
    const double error = std::sqrt((squares / kDraws - mean * mean) / kDraws);
    EXPECT_NEAR(mean, model.costs.cost(resource, model.space.expected_sizes(p)), 3.5 * error)
        << resource_name(resource);
    // And its slopes are those of that expectation.
    const std::vector<double> slopes = model.costs.slopes(resource, p);
    for (size_t unit = 0; unit < count; ++unit) {
      std::vector<double> up = p, down = p;
      up[unit] += 1e-3;
      down[unit] -= 1e-3;
      const double slope = (model.costs.cost(resource, model.space.expected_sizes(up)) -
                            model.costs.cost(resource, model.space.expected_sizes(down))) /
                           2e-3;
      EXPECT_NEAR(slopes[unit], slope, 1e-6 * (std::abs(slope) + 1)) << unit;
    }
  }
}

std::vector<double> some_importance(const ArchSpace& space, uint64_t seed) {
  std::vector<double> out;
  for (size_t unit = 0; unit < space.units().size(); ++unit) {
    out.push_back(static_cast<double>(random_key({seed, unit}) >> 11) * 0x1p-53);
  }
  return out;
}

// P8, and the last part of P4.
TEST(Choice, IsNestedAndKeepsToTheBudget) {
  for (const char* router : {"switch", "top_k"}) {
    const bool has_slots = router == std::string("top_k");
    const Model model(router, Kind::kDecoder, has_slots ? "norm_topk_prob = false" : "",
                      {2, 0.1, false, 1});
    const std::vector<double> ranks =
        proportional_ranks(model.space, some_importance(model.space, 1));
    Mask larger = model.space.all();
    for (int percent = 100; percent >= 40; percent -= 3) {
      const Limit limit = parse_limit("flops=" + std::to_string(percent * 0.01), model.costs);
      const Mask mask = choose_units(model.costs, ranks, {limit}, larger);
      for (size_t unit = 0; unit < mask.size(); ++unit) EXPECT_LE(mask[unit], larger[unit]);
      const double share = model.costs.cost(Resource::kFlops, mask) / limit.most;
      EXPECT_LE(share, 1);
      // A slot or a head is a tenth of so small a model, and what left with it stays away.
      EXPECT_GE(share, has_slots ? 0.9 : 0.93) << router << " " << percent;
      larger = mask;
    }
  }
}

TEST(Choice, ComesCloseToTheBudgetWhereUnitsAreSmall) {
  model::TransformerConfig config = tiny_config("switch");
  config.moe.intermediate_size = config.model.intermediate_size = 400;
  const ArchSpace space(config.model, config.moe, config.router_options, {.block_size = 2});
  const CostModel costs(space, {.sequence_length = 16});
  const std::vector<double> ranks = proportional_ranks(space, some_importance(space, 1));
  for (const double share : {0.9, 0.75, 0.5, 0.3}) {
    const Limit limit = parse_limit("flops=" + std::to_string(share), costs);
    const double cost =
        costs.cost(Resource::kFlops, choose_units(costs, ranks, {limit}, space.all()));
    EXPECT_LE(cost, limit.most);
    EXPECT_GE(cost, 0.98 * limit.most) << share;
  }
}

TEST(Choice, KeepsAboutTheSameShareOfAllLayers) {
  model::TransformerConfig config = tiny_config("switch");
  config.model.vocab_size = 4000;  // beside it, a router costs nothing
  const ArchSpace space(config.model, config.moe, config.router_options, {.block_size = 1});
  const CostModel costs(space, {.sequence_length = 16});
  const std::vector<double> ranks = proportional_ranks(space, some_importance(space, 2));
  const Mask mask = choose_units(costs, ranks, {parse_limit("flops=0.93", costs)}, space.all());
  const std::vector<LayerSizes> sizes = space.sizes(mask);
  EXPECT_NEAR(sizes[0].channels / 24, sizes[1].channels / 40, 0.1);
  EXPECT_NEAR(sizes[0].channels / 24, sizes[3].channels / 24, 0.1);
  EXPECT_LT(sizes[0].channels, 22);
  EXPECT_EQ(sizes[0].experts, 6) << "no FLOPs are in experts that a token does not have";
}

TEST(Choice, DropsExpertsForParametersAndSlotsForBytes) {
  const Model model;
  const std::vector<double> ranks =
      proportional_ranks(model.space, some_importance(model.space, 3));
  const Mask small = choose_units(model.costs, ranks, {parse_limit("parameters=0.6", model.costs)},
                                  model.space.all());
  EXPECT_LT(model.space.sizes(small)[0].experts, 6);
  const Mask few = choose_units(model.costs, ranks, {parse_limit("exchange=0.5", model.costs)},
                                model.space.all());
  const LayerSizes& sizes = model.space.sizes(few)[0];
  EXPECT_EQ(sizes.top_k, 1);
  EXPECT_EQ(sizes.channels, 24);
  // Several limits at once.
  const std::vector<Limit> both{parse_limit("parameters=0.7", model.costs),
                                parse_limit("flops=0.5", model.costs)};
  const Mask mask = choose_units(model.costs, ranks, both, model.space.all());
  for (const Limit& limit : both) EXPECT_LE(model.costs.cost(limit.resource, mask), limit.most);
}

TEST(Choice, RefusesWhatFloorsForbidAndSaysTheLeast) {
  const Model model;
  const std::vector<double> ranks =
      proportional_ranks(model.space, some_importance(model.space, 4));
  const Limit limit = parse_limit("flops=0.01", model.costs);
  const std::string error = test::error_of<ConfigError>(
      [&] { choose_units(model.costs, ranks, {limit}, model.space.all()); });
  EXPECT_NE(error.find("budget flops=0.01: the least that can be left is flops ="),
            std::string::npos)
      << error;
  for (const char* wrong :
       {"flops", "flop=0.5", "flops=half", "flops=-1", "memory=2XB", "memory=2ms", "latency=5ms"}) {
    EXPECT_THROW(parse_limit(wrong, model.costs), ConfigError) << wrong;
  }
  EXPECT_DOUBLE_EQ(parse_limit("memory=2KB", model.costs).most, 2000);
  EXPECT_DOUBLE_EQ(parse_limit("parameters=1.5K", model.costs).most, 1500);
}

// A branch that is gone does not come back bare, and floors hold in what is left.
TEST(Choice, LeavesWholeBranchesOrNone) {
  const Model model;
  const std::vector<double> ranks =
      proportional_ranks(model.space, some_importance(model.space, 6));
  for (const char* text : {"parameters=0.12", "parameters=0.2", "flops=0.15", "flops=0.3"}) {
    const Limit limit = parse_limit(text, model.costs);
    const Mask mask = choose_units(model.costs, ranks, {limit}, model.space.all());
    EXPECT_EQ(mask, model.space.active(mask));
    EXPECT_LE(model.costs.cost(limit.resource, mask), limit.most) << text;
    const auto [cut, moe] =
        cut_config(model.config.model, model.config.moe, model.space.to_cut(mask));
    EXPECT_TRUE(model::layer_problems(cut, moe, model.config.router_options).empty()) << text;
    for (const UnitGroup& group : model.space.groups()) {
      int64_t left = 0;
      for (size_t unit = group.begin; unit < group.end; ++unit) left += mask[unit];
      EXPECT_TRUE(left == 0 || left >= group.floor) << text;
    }
  }
}

TEST(ArchSpace, LeavesAnExpertToEveryDomain) {
  model::TransformerConfig config = tiny_config("locmoe");
  config.moe.router.top_k = 1;
  config.moe.domain_groups = {"a = 0-1", "b = 2-5"};
  const ArchSpace space(config.model, config.moe, config.router_options, {.block_size = 4});
  const CostModel costs(space, {.sequence_length = 16});
  std::vector<double> importance(space.units().size(), 1.0);
  for (size_t unit = 0; unit < importance.size(); ++unit) {
    const Unit& one = space.units()[unit];
    if (one.kind == UnitKind::kExpert && one.index < 2) importance[unit] = 0;
  }
  const Mask mask = choose_units(costs, proportional_ranks(space, importance),
                                 {parse_limit("parameters=0.4", costs)}, space.all());
  const std::vector<int64_t> experts = space.to_cut(mask)[0].experts;
  EXPECT_LT(experts.size(), 6u);
  EXPECT_LT(experts.front(), 2) << "of the first domain, although none of its experts matters";
}

TEST(ArchSpace, KeepsWhatRoutersCannotDoWithout) {
  model::TransformerConfig config = tiny_config("top_k", Kind::kDecoder, "num_groups = 2");
  const auto count = [&](UnitKind kind) {
    const ArchSpace space(config.model, config.moe, config.router_options, {});
    return std::count_if(space.units().begin(), space.units().end(),
                         [kind](const Unit& unit) { return unit.kind == kind; });
  };
  EXPECT_EQ(count(UnitKind::kExpert), 0);
  EXPECT_EQ(count(UnitKind::kSlot), 0) << "weights of a token sum to 1";
  EXPECT_GT(count(UnitKind::kBlock), 0);
  config = tiny_config("hash");
  EXPECT_EQ(count(UnitKind::kSlot), 0);
}

TEST(ArchSpace, KeepsEqualNumbersOfExpertsOnAllRanks) {
  const Model model("top_k", Kind::kDecoder, "norm_topk_prob = false", {5, 0.1, false, 2});
  Mask mask = model.space.all();
  for (size_t unit = 0; unit < mask.size(); ++unit) {
    const Unit& one = model.space.units()[unit];
    if (one.kind == UnitKind::kExpert && one.index == 1) mask[unit] = 0;
  }
  EXPECT_EQ(model.space.to_cut(mask)[0].experts, (std::vector<int64_t>{0, 2, 3, 5}));
}

}  // namespace
}  // namespace locus::search
