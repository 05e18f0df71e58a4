#include "locus/search/gates.h"

#include <algorithm>
#include <cmath>

#include "locus/base/random.h"

namespace locus::search {
namespace {

constexpr int kHalvings = 60;
constexpr double kReach = 20;  // temperatures beyond the logits
constexpr double kBeta1 = 0.9, kBeta2 = 0.999, kEps = 1e-8;

}  // namespace

std::vector<double> unit_probabilities(const std::vector<double>& logits, double threshold,
                                       double temperature) {
  std::vector<double> p;
  for (const double logit : logits) {
    p.push_back(1 / (1 + std::exp(-(logit - threshold) / temperature)));
  }
  return p;
}

double solve_threshold(const CostModel& costs, const std::vector<double>& logits,
                       const Limit& limit, double temperature) {
  const auto [least, most] = std::minmax_element(logits.begin(), logits.end());
  double low = *least - kReach * temperature, high = *most + kReach * temperature;
  for (int i = 0; i < kHalvings; ++i) {
    const double middle = (low + high) / 2;
    const auto sizes =
        costs.space().expected_sizes(unit_probabilities(logits, middle, temperature));
    (costs.cost(limit.resource, sizes) > limit.most ? low : high) = middle;
  }
  return (low + high) / 2;
}

std::vector<double> gate_gradient(const CostModel& costs, const std::vector<double>& logits,
                                  const Limit& limit, double temperature,
                                  const std::vector<double>& mask_gradient, const Mask& is_known) {
  const double threshold = solve_threshold(costs, logits, limit, temperature);
  const std::vector<double> p = unit_probabilities(logits, threshold, temperature);
  const std::vector<double> cost_slope = costs.slopes(limit.resource, p);
  std::vector<double> slope;
  double gain = 0, cost = 0;
  for (size_t unit = 0; unit < p.size(); ++unit) {
    slope.push_back(is_known[unit] != 0 ? p[unit] * (1 - p[unit]) / temperature : 0);
    gain += slope[unit] * mask_gradient[unit];
    cost += slope[unit] * cost_slope[unit];
  }
  const double mean = cost > 0 ? gain / cost : 0;
  std::vector<double> out;
  for (size_t unit = 0; unit < p.size(); ++unit) {
    out.push_back(slope[unit] * (mask_gradient[unit] - cost_slope[unit] * mean));
  }
  return out;
}

std::vector<double> with_noise(const std::vector<double>& logits, double scale, uint64_t key) {
  std::vector<double> out = logits;
  for (size_t unit = 0; unit < out.size(); ++unit) {
    const uint64_t draw = random_key({key, unit});
    const double u = (static_cast<double>(draw >> 11) + 0.5) * 0x1p-53;
    out[unit] += scale * (std::log(u) - std::log1p(-u));
  }
  return out;
}

void update_gates(GateState& gates, const std::vector<double>& gradient, double lr) {
  gates.mean.resize(gates.logits.size());
  gates.square.resize(gates.logits.size());
  ++gates.updates;
  const double correct1 = 1 - std::pow(kBeta1, static_cast<double>(gates.updates));
  const double correct2 = 1 - std::pow(kBeta2, static_cast<double>(gates.updates));
  for (size_t unit = 0; unit < gates.logits.size(); ++unit) {
    const double g = gradient[unit];
    gates.mean[unit] += (1 - kBeta1) * (g - gates.mean[unit]);
    gates.square[unit] += (1 - kBeta2) * (g * g - gates.square[unit]);
    gates.logits[unit] -=
        lr * (gates.mean[unit] / correct1) / (std::sqrt(gates.square[unit] / correct2) + kEps);
  }
}

}  // namespace locus::search
