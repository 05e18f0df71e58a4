#include "locus/search/paper_gates.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <tuple>

#include "locus/base/error.h"
#include "locus/base/random.h"
#include "tests/search/search_helpers.h"

namespace locus::search {
namespace {

struct Model {
  model::TransformerConfig config = tiny_config("top_k", Kind::kDecoder, "norm_topk_prob = false");
  ArchSpace space{config.model, config.moe, config.router_options, {2, 0.1, false, 1}};
  CostModel costs{space, {.sequence_length = 16}};

  Limit limit(const std::string& text) const { return parse_limit(text, costs); }
  std::vector<double> draws(uint64_t seed) const {
    std::vector<double> out;
    for (size_t unit = 0; unit < space.units().size(); ++unit) {
      out.push_back(random_uniform(seed, unit));
    }
    return out;
  }
};

// P20: of each vector max(int((1 - rho) C), 1).
TEST(PaperGates, KeepTheSameShareOfEachVector) {
  EXPECT_EQ(paper_kept(16, 0.5), 8);
  EXPECT_EQ(paper_kept(3, 0.5), 1);
  EXPECT_EQ(paper_kept(10, 0.99), 1);
  EXPECT_EQ(paper_kept(7, 0.0), 7);
  const Model model;
  const std::vector<double> scores = model.draws(1);
  for (const double share : {0.0, 0.25, 0.5, 0.8, 1.0}) {
    const Mask mask = keep_highest(model.space, scores, share);
    for (const UnitGroup& group : model.space.groups()) {
      int64_t kept = 0;
      double worst_kept = 2, best_dropped = -1;
      for (size_t unit = group.begin; unit < group.end; ++unit) {
        kept += mask[unit];
        (mask[unit] != 0 ? worst_kept : best_dropped) = mask[unit] != 0
                                                            ? std::min(worst_kept, scores[unit])
                                                            : std::max(best_dropped, scores[unit]);
      }
      const auto count = static_cast<int64_t>(group.size());
      EXPECT_EQ(kept,
                has_columns(group.kind) ? std::max(paper_kept(count, share), group.floor) : count);
      EXPECT_GT(worst_kept, best_dropped);
    }
  }
}

// P20, by hand.
TEST(PaperGates, HaveThePublishedLosses) {
  GateVector vector;
  vector.gates = {1, 0};
  vector.dropped_share = 0.2;
  vector.running = {0.7, 0.7};
  vector.history_mean = {1, 0.5};
  vector.correlation_CC = at::tensor({1.0, -0.5, -0.5, 1.0}, at::kDouble).view({2, 2});
  const GateLosses losses = gate_losses(vector);
  EXPECT_NEAR(losses.sparsity, 0.3, 1e-12);
  EXPECT_NEAR(losses.diversity, 0, 1e-9);
  EXPECT_NEAR(losses.correlation, 0.25, 1e-12);
  EXPECT_NEAR(losses.stability, (0.09 + 0.49) / 2, 1e-12);
  EXPECT_NEAR(losses.consistency, 0.125, 1e-12);
  EXPECT_NEAR(losses.total(), 0.3 + 0.1 * (0.25 + 0.29 + 0.125), 1e-9);
  vector.gates = {0.5, 0.5};
  EXPECT_NEAR(gate_losses(vector).diversity, -std::log(2.0), 1e-9);
  vector.history_mean.clear();
  vector.correlation_CC.reset();
  EXPECT_EQ(gate_losses(vector).consistency, 0);
  EXPECT_EQ(gate_losses(vector).correlation, 0);
}

TEST(PaperGates, SlopesAreThoseOfTheLosses) {
  GateVector vector;
  vector.gates = {0.9, 0.2, 0.6};
  vector.dropped_share = 0.3;
  vector.running = {0.7, 0.1, 0.4};
  vector.history_mean = {1, 0.5, 0};
  const std::vector<double> slopes = gate_loss_slopes(vector);
  constexpr double kStep = 1e-6;
  for (size_t i = 0; i < vector.gates.size(); ++i) {
    GateVector up = vector, down = vector;
    up.gates[i] += kStep;
    down.gates[i] -= kStep;
    EXPECT_NEAR(slopes[i], (gate_losses(up).total() - gate_losses(down).total()) / (2 * kStep),
                1e-7);
  }
}

// P20: what the published loss for sparsity comes to, whatever is learned; and its pull back.
TEST(PaperGates, HaveThePublishedDefects) {
  constexpr int64_t kCount = 20;
  for (const double share : {0.1, 0.5, 0.75}) {
    GateVector vector;
    vector.dropped_share = share;
    vector.gates.assign(kCount, 0);
    std::fill_n(vector.gates.begin(), paper_kept(kCount, share), 1);
    vector.running = vector.history_mean = vector.gates;
    EXPECT_NEAR(gate_losses(vector).sparsity, std::abs(1 - 2 * share), 1e-12) << share;
    GateVector odd = vector;  // up to a unit's share
    odd.gates.assign(7, 0);
    std::fill_n(odd.gates.begin(), paper_kept(7, share), 1);
    odd.running = odd.history_mean = odd.gates;
    EXPECT_NEAR(gate_losses(odd).sparsity, std::abs(1 - 2 * share), 1.0 / 7) << share;
    const double push = share < 0.5 ? 1 : share > 0.5 ? -1 : 0;
    const std::vector<double> slopes = gate_loss_slopes(vector);
    EXPECT_NEAR(slopes.front() * kCount, push + 0.1 * 24.03, 0.01);
    EXPECT_NEAR(slopes.back() * kCount, push - 0.1 * 24.03, 0.01);
  }
}

// By hand, of a layer's three heads.
TEST(PaperGates, ScoreByFourMeans) {
  const Model model;
  const auto group = std::find_if(model.space.groups().begin(), model.space.groups().end(),
                                  [](const UnitGroup& one) { return one.kind == UnitKind::kHead; });
  ASSERT_EQ(group->size(), 3u);
  const size_t count = model.space.units().size();
  std::vector<double> logits(count);
  PaperState state{.running = std::vector<double>(count),
                   .magnitude = std::vector<double>(count),
                   .feature = std::vector<double>(count),
                   .correlation = std::vector<double>(count),
                   .history = {}};
  const auto set = [&](std::vector<double>& values, std::array<double, 3> own) {
    std::copy(own.begin(), own.end(), values.begin() + static_cast<std::ptrdiff_t>(group->begin));
  };
  set(logits, {0, std::log(3.0), -std::log(3.0)});  // sigmoids 0.5, 0.75, 0.25
  set(state.magnitude, {1, 2, 3});
  set(state.feature, {0.2, 0.2, 0.2});
  set(state.correlation, {0.5, 0.9, 0.7});
  const std::vector<double> scores = paper_scores(model.space, logits, state);
  EXPECT_NEAR(scores[group->begin], 0.3 * 0.5, 1e-12);
  EXPECT_NEAR(scores[group->begin + 1], 0.3 + 0.3 * 0.5 + 0.2, 1e-12);
  EXPECT_NEAR(scores[group->begin + 2], 0.3 + 0.2 * 0.5, 1e-12);
  set(state.feature, {0.3, 0.1, 0.2});
  EXPECT_NEAR(paper_scores(model.space, logits, state)[group->begin], 0.3 * 0.5 + 0.2, 1e-12);
}

TEST(PaperGates, AverageWhatUnitsPutOut) {
  const Model model;
  GateState gates;
  PaperState state;
  PaperGates paper(model.costs, model.limit("flops=0.7"), gates, state);
  paper.begin(5);
  paper.draw(1);
  const UnitGroup& group = model.space.groups().front();
  ASSERT_EQ(group.kind, UnitKind::kHead);
  const at::Tensor correlation_CC =
      at::tensor({1.0, 0.5, 0.0, 0.5, 1.0, -0.5, 0.0, -0.5, 1.0}, at::kDouble).view({3, 3});
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const GroupActivations seen{&group, {3, 2, nan}, {0, std::log(3.0), 0}, correlation_CC};
  const double losses = paper.learn(std::vector<double>(gates.logits.size()), {seen}, 0.03);
  EXPECT_GT(losses, 0);
  EXPECT_NEAR(state.magnitude[0], 0.9 + 0.1 * 3, 1e-12);
  EXPECT_NEAR(state.feature[1], 0.9 + 0.1 * 0.75, 1e-12);
  EXPECT_NEAR(state.correlation[1], 0.9 + 0.1 * (1 - 2.0 / 3), 1e-12);
  EXPECT_EQ(state.magnitude[2], 1.0);  // of what is no number, nothing is remembered
}

TEST(PaperGates, MeetLimitsByOneShareForAll) {
  const Model model;
  const std::vector<double> logits = model.draws(2);
  PaperState state;
  state.magnitude = model.draws(3);
  state.feature = model.draws(4);
  state.correlation = model.draws(5);
  const std::vector<double> scores = paper_scores(model.space, logits, state);
  Mask before = model.space.all();
  for (const char* budget : {"0.9", "0.8", "0.7", "0.6"}) {
    const std::vector<Limit> limits{model.limit(std::string("flops=") + budget)};
    const Mask mask = paper_choice(model.costs, logits, state, limits);
    EXPECT_LE(model.costs.cost(Resource::kFlops, mask), limits.front().most);
    // The largest such model: with a little less dropped it would cost more.
    const double share = find_dropped_share(model.costs, scores, limits);
    EXPECT_EQ(mask, keep_highest(model.space, scores, share));
    EXPECT_GT(model.costs.cost(Resource::kFlops, keep_highest(model.space, scores, share - 1e-9)),
              limits.front().most);
    for (size_t unit = 0; unit < mask.size(); ++unit) EXPECT_LE(mask[unit], before[unit]);
    before = mask;
  }
  EXPECT_EQ(find_dropped_share(model.costs, scores, {model.limit("flops=1")}), 0);
  EXPECT_THROW(find_dropped_share(model.costs, scores, {model.limit("flops=0.05")}), ConfigError);
}

TEST(PaperGates, DrawByTheirKeyAndRememberWhatWasOn) {
  const Model model;
  GateState gates;
  PaperState state;
  PaperGates paper(model.costs, model.limit("flops=0.7"), gates, state);
  paper.begin(5);
  double squares = 0;
  for (const double logit : gates.logits) squares += logit * logit;
  EXPECT_NEAR(std::sqrt(squares / static_cast<double>(gates.logits.size())), 0.01, 0.003);
  const Mask first = paper.draw(1), second = paper.draw(2);
  EXPECT_NE(first, second);
  EXPECT_EQ(paper.draw(1), first);
  const std::vector<double> before = gates.logits;
  // A loss that falls with the first unit, and no other slopes.
  std::vector<double> slopes(gates.logits.size());
  slopes[0] = -100;
  paper.learn(slopes, {}, 0.03);
  EXPECT_GT(gates.logits[0], before[0]);
  ASSERT_EQ(state.history.size(), 1u);
  for (size_t unit = 0; unit < first.size(); ++unit) {
    EXPECT_EQ(state.history[0][unit] == '1', first[unit] != 0);
    EXPECT_NEAR(state.running[unit], 0.9 * 0.7 + 0.1 * first[unit], 1e-12);
    if (has_columns(model.space.units()[unit].kind)) continue;
    EXPECT_EQ(gates.logits[unit], before[unit]);
  }
  for (uint64_t key = 3; key < 120; ++key) {
    paper.draw(key);
    paper.learn(slopes, {}, 0.03);
  }
  EXPECT_EQ(state.history.size(), 100u);
}

// Against plain loops over what another probe sees.
TEST(ActivationStats, AreThoseOfWhatUnitsPutOut) {
  for (const Kind kind : {Kind::kDecoder, Kind::kEncoderDecoder}) {
    const auto config = tiny_config("top_k", kind);
    const auto transformer = make_model(config, /*in_double=*/true);
    transformer->eval();
    // Blocks of 7: the last one of 24 or 40 channels is a smaller one.
    const ArchSpace space(config.model, config.moe, config.router_options, {7, 0.1, false, 1});
    const model::TransformerInput input = random_input(config);
    std::vector<const UnitGroup*> groups;
    std::vector<at::Tensor> weights;
    for (const UnitGroup& group : space.groups()) {
      if (!has_columns(group.kind)) continue;
      groups.push_back(&group);
      weights.push_back(
          transformer->named_parameters()[output_weight(space, group.kind, group.layer)]);
    }
    std::map<size_t, std::vector<at::Tensor>> seen;
    {
      const ops::InputProbe probe(weights, [&](size_t number, const at::Tensor& x) {
        seen[number].push_back(x.reshape({-1, x.size(-1)}));
      });
      transformer->forward(input);
    }
    ActivationStats stats(space);
    {
      const auto probe = stats.watch(*transformer);
      transformer->forward(input);
    }
    const auto found = stats.take(nullptr);
    ASSERT_EQ(found.size(), groups.size());
    EXPECT_TRUE(stats.take(nullptr).empty());
    for (size_t number = 0; number < groups.size(); ++number) {
      const UnitGroup& group = *groups[number];
      ASSERT_EQ(found[number].group, &group);
      const at::Tensor x_NK = at::cat(seen[number]);
      const int64_t of_head = config.model.head_dim * config.model.heads_per_group();
      std::vector<at::Tensor> values;
      for (size_t i = 0; i < group.size(); ++i) {
        const auto index = static_cast<int64_t>(i);
        auto [begin, end] = std::pair(index * of_head, (index + 1) * of_head);
        if (group.kind == UnitKind::kBlock) {
          std::tie(begin, end) = space.channels_of(space.units()[group.begin + i]);
        }
        const at::Tensor own = x_NK.slice(1, begin, end);
        EXPECT_NEAR(found[number].magnitude[i], own.abs().mean().item<double>(), 1e-12);
        EXPECT_NEAR(found[number].mean[i], own.mean().item<double>(), 1e-12);
        values.push_back(own.mean(1));
      }
      const at::Tensor expected = at::corrcoef(at::stack(values));
      EXPECT_TRUE(at::allclose(found[number].correlation_CC, expected, 1e-8, 1e-9));
    }
  }
}

// A unit that always puts out the same is like no other.
TEST(ActivationStats, OfAConstantUnitThereIsNoCorrelation) {
  const auto config = tiny_config("top_k");
  const auto transformer = make_model(config, /*in_double=*/true);
  {
    const at::NoGradGuard no_grad;  // the dense layer's channels are all 0
    transformer->named_parameters()["layers.1.mlp.up_proj"].zero_();
    transformer->named_parameters()["layers.1.mlp.up_proj_bias"].zero_();
  }
  const ArchSpace space(config.model, config.moe, config.router_options, {8, 0.1, false, 1});
  ActivationStats stats(space);
  {
    const auto probe = stats.watch(*transformer);
    transformer->forward(random_input(config));
  }
  for (const GroupActivations& one : stats.take(nullptr)) {
    EXPECT_TRUE(at::isfinite(one.correlation_CC).all().item<bool>());
    if (one.group->layer != 1 || one.group->kind != UnitKind::kBlock) continue;
    EXPECT_TRUE(one.correlation_CC.equal(at::eye(one.correlation_CC.size(0), at::kDouble)));
  }
}

}  // namespace
}  // namespace locus::search
