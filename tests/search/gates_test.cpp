#include "locus/search/gates.h"

#include <gtest/gtest.h>

#include <cmath>

#include "locus/search/choice.h"
#include "tests/search/search_helpers.h"

namespace locus::search {
namespace {

struct Model {
  model::TransformerConfig config = tiny_config("top_k", Kind::kDecoder, "norm_topk_prob = false");
  ArchSpace space{config.model, config.moe, config.router_options, {4, 0.1, true, 1}};
  CostModel costs{space, {.sequence_length = 16}};

  std::vector<double> draws(uint64_t seed) const {
    std::vector<double> out;
    for (size_t unit = 0; unit < space.units().size(); ++unit) {
      out.push_back(2 * static_cast<double>(random_key({seed, unit}) >> 11) * 0x1p-53 - 1);
    }
    return out;
  }
  std::vector<double> probabilities(const std::vector<double>& logits, const Limit& limit,
                                    double temperature) const {
    return unit_probabilities(logits, solve_threshold(costs, logits, limit, temperature),
                              temperature);
  }
};

TEST(Gates, TheThresholdMeetsTheBudgetAndIsMonotone) {
  const Model model;
  const std::vector<double> logits = model.draws(1);
  double before = -1e9;
  for (const double share : {0.9, 0.7, 0.5, 0.3}) {
    const Limit limit = parse_limit("flops=" + std::to_string(share), model.costs);
    const double threshold = solve_threshold(model.costs, logits, limit, 0.5);
    EXPECT_GT(threshold, before);
    before = threshold;
    const auto p = unit_probabilities(logits, threshold, 0.5);
    EXPECT_NEAR(model.costs.cost(Resource::kFlops, model.space.expected_sizes(p)), limit.most,
                1e-6 * limit.most);
  }
}

// P6: against central differences, and the budget is kept along any direction.
TEST(Gates, TheGradientIsThatThroughTheThreshold) {
  const Model model;
  const std::vector<double> logits = model.draws(2);
  const std::vector<double> mask_gradient = model.draws(3);
  const Limit limit = parse_limit("flops=0.55", model.costs);
  constexpr double kTemperature = 0.5, kStep = 1e-4;
  const std::vector<double> gradient =
      gate_gradient(model.costs, logits, limit, kTemperature, mask_gradient, model.space.all());
  for (size_t unit = 0; unit < logits.size(); ++unit) {
    std::vector<double> up = logits, down = logits;
    up[unit] += kStep;
    down[unit] -= kStep;
    const auto p_up = model.probabilities(up, limit, kTemperature);
    const auto p_down = model.probabilities(down, limit, kTemperature);
    double expected = 0, size = 0;
    for (size_t one = 0; one < logits.size(); ++one) {
      expected += mask_gradient[one] * (p_up[one] - p_down[one]) / (2 * kStep);
      size += std::abs(gradient[one]);
    }
    EXPECT_NEAR(gradient[unit], expected, 1e-6 * size) << unit;
  }
  // sum a dp = 0: with the costs' slopes as the loss's, there is nothing to gain.
  const auto p = model.probabilities(logits, limit, kTemperature);
  const auto slopes = model.costs.slopes(Resource::kFlops, p);
  for (const double one :
       gate_gradient(model.costs, logits, limit, kTemperature, slopes, model.space.all())) {
    EXPECT_NEAR(one, 0, 1e-6 * model.costs.whole(Resource::kFlops));
  }
}

// Of what is not known, nothing is learned.
TEST(Gates, UnitsWithoutASlopeStay) {
  const Model model;
  const std::vector<double> logits = model.draws(5);
  Mask is_known = model.space.all();
  for (size_t unit = 0; unit < is_known.size(); unit += 3) is_known[unit] = 0;
  const auto gradient = gate_gradient(model.costs, logits, parse_limit("flops=0.5", model.costs),
                                      0.5, std::vector<double>(logits.size(), -1.0), is_known);
  for (size_t unit = 0; unit < gradient.size(); ++unit) {
    if (is_known[unit] != 0) continue;
    EXPECT_EQ(gradient[unit], 0) << unit;
  }
}

// P7: logistic noise on a logit beyond the threshold is a draw with its probability.
TEST(Gates, NoiseHasTheLawOfTheSigmoid) {
  const std::vector<double> logits{-1.0, 0.0, 0.7};
  constexpr double kTemperature = 0.5;
  constexpr int kDraws = 100000;
  std::vector<int> counts(logits.size());
  for (uint64_t key = 0; key < kDraws; ++key) {
    const auto noisy = with_noise(logits, kTemperature, random_key({key, 5}));
    for (size_t unit = 0; unit < logits.size(); ++unit) counts[unit] += noisy[unit] > 0.2 ? 1 : 0;
  }
  const auto p = unit_probabilities(logits, 0.2, kTemperature);
  for (size_t unit = 0; unit < logits.size(); ++unit) {
    const double error = std::sqrt(p[unit] * (1 - p[unit]) / kDraws);
    EXPECT_NEAR(static_cast<double>(counts[unit]) / kDraws, p[unit], 3.9 * error) << unit;
  }
  EXPECT_EQ(with_noise(logits, 0, 9), logits);
  EXPECT_EQ(with_noise(logits, 0.3, 9), with_noise(logits, 0.3, 9));
  EXPECT_NE(with_noise(logits, 0.3, 9), with_noise(logits, 0.3, 10));
}

// P9: units that are worth something, planted among others that are not.
TEST(Gates, LearnWhichUnitsAreWorthTheirCost) {
  const Model model;
  std::vector<double> worth(model.space.units().size());
  size_t planted = 0;
  for (const UnitGroup& group : model.space.groups()) {
    if (group.kind != UnitKind::kBlock) continue;
    for (size_t unit = group.begin; unit < group.end; unit += 2, ++planted) worth[unit] = -1;
  }
  GateState gates;
  gates.logits = proportional_ranks(model.space, model.draws(4));  // knows nothing of it
  const Limit limit = parse_limit("flops=0.75", model.costs);
  for (int step = 0; step < 200; ++step) {
    update_gates(gates,
                 gate_gradient(model.costs, gates.logits, limit, 0.5, worth, model.space.all()),
                 0.03);
  }
  const Mask mask = choose_units(model.costs, gates.logits, {limit}, model.space.all());
  size_t kept = 0;
  for (size_t unit = 0; unit < mask.size(); ++unit) kept += worth[unit] < 0 ? mask[unit] : 0;
  EXPECT_GE(static_cast<double>(kept), 0.95 * static_cast<double>(planted));
}

}  // namespace
}  // namespace locus::search
