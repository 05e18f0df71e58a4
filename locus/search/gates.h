// A distribution over architectures: each unit has a logit, and is there with the probability
// sigmoid((logit - t) / temperature), where the one threshold t makes the expected cost that of the
// budget. Any budget has its threshold, and so its architecture.
#pragma once

#include <cstdint>
#include <vector>

#include "locus/search/cost_model.h"

namespace locus::search {

std::vector<double> unit_probabilities(const std::vector<double>& logits, double threshold,
                                       double temperature);

// By bisection: the cost falls as t rises. Beyond the reach of any t, the nearest.
double solve_threshold(const CostModel& costs, const std::vector<double>& logits,
                       const Limit& limit, double temperature);

// dLoss/dlogit from dLoss/dm of each unit, through the probabilities whose expected cost stays at
// the limit: s_c (g_c - a_c (sum s g) / (sum s a)), with s = p (1 - p) / temperature and a = dC/dp
// (the implicit function theorem). A unit rises where it gains more loss for its cost than the
// mean. Units that are not `is_known` take no part, and stay.
std::vector<double> gate_gradient(const CostModel& costs, const std::vector<double>& logits,
                                  const Limit& limit, double temperature,
                                  const std::vector<double>& mask_gradient, const Mask& is_known);

// Logits with logistic noise of this scale, drawn by (key, unit) alone.
std::vector<double> with_noise(const std::vector<double>& logits, double scale, uint64_t key);

// Learned by Adam without decay.
struct GateState {
  std::vector<double> logits, mean, square;
  int64_t updates = 0;
};
void update_gates(GateState& gates, const std::vector<double>& gradient, double lr);

}  // namespace locus::search
