#include "locus/search/paper_gates.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <numbers>
#include <numeric>
#include <utility>

#include "locus/base/error.h"
#include "locus/base/random.h"

namespace locus::search {
namespace {

constexpr double kLogitDeviation = 0.01;  // of the first draw
constexpr double kNoise = 0.1;
constexpr double kLossWeight = 0.1;  // of all gate losses, beside the model's
constexpr double kEps = 1e-10;
constexpr double kMomentum = 0.1;  // of moving averages
constexpr double kFirstRunning = 0.7, kFirstAverage = 1.0;
constexpr size_t kLongestHistory = 100;
constexpr int kHalvings = 40;

double sigmoid(double x) { return 1 / (1 + std::exp(-x)); }

// Over 0 and at most 1.
double uniform(uint64_t key, size_t unit) { return random_uniform(key, unit) + 0x1p-54; }

double mean_square_distance(const std::vector<double>& a, const std::vector<double>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += (a[i] - b[i]) * (a[i] - b[i]);
  return sum / static_cast<double>(a.size());
}

double mean(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

void average_in(double& average, double value) { average += kMomentum * (value - average); }

// A vector's part of `values`, scaled to 0 to 1, times `weight`.
void add_scaled(const UnitGroup& group, const std::vector<double>& values, double weight,
                std::vector<double>& scores) {
  const auto begin = values.begin() + static_cast<std::ptrdiff_t>(group.begin);
  const auto end = values.begin() + static_cast<std::ptrdiff_t>(group.end);
  const auto [least, most] = std::minmax_element(begin, end);
  const double range = *most - *least;
  if (!(range > 0)) return;
  for (size_t unit = group.begin; unit < group.end; ++unit) {
    scores[unit] += weight * (values[unit] - *least) / range;
  }
}

}  // namespace

int64_t paper_kept(int64_t count, double dropped_share) {
  return std::max<int64_t>(1,
                           static_cast<int64_t>((1 - dropped_share) * static_cast<double>(count)));
}

Mask keep_highest(const ArchSpace& space, const std::vector<double>& scores, double dropped_share) {
  Mask mask = space.all();
  for (const UnitGroup& group : space.groups()) {
    if (!has_columns(group.kind)) continue;
    std::vector<size_t> order(group.size());
    std::iota(order.begin(), order.end(), group.begin);
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return scores[a] > scores[b]; });
    const auto count = static_cast<int64_t>(group.size());
    const int64_t kept = std::max(paper_kept(count, dropped_share), group.floor);
    for (int64_t i = kept; i < count; ++i) mask[order[static_cast<size_t>(i)]] = 0;
  }
  return mask;
}

double find_dropped_share(const CostModel& costs, const std::vector<double>& scores,
                          const std::vector<Limit>& limits) {
  const auto over = [&](double share) -> const Limit* {
    const Mask mask = keep_highest(costs.space(), scores, share);
    for (const Limit& limit : limits) {
      if (costs.cost(limit.resource, mask) > limit.most) return &limit;
    }
    return nullptr;
  };
  if (over(0) == nullptr) return 0;
  if (const Limit* limit = over(1)) {
    throw ConfigError(
        "budget {}: with dance.mode = \"paper\" heads and channels alone are left out, and the "
        "least that can be left is {} = {:.4f} of the whole model's",
        limit->text, resource_name(limit->resource),
        std::ceil(1e4 * costs.cost(limit->resource, keep_highest(costs.space(), scores, 1)) /
                  costs.whole(limit->resource)) /
            1e4);
  }
  double low = 0, high = 1;
  for (int i = 0; i < kHalvings; ++i) {
    const double middle = (low + high) / 2;
    (over(middle) != nullptr ? low : high) = middle;
  }
  return high;
}

GateLosses gate_losses(const GateVector& vector) {
  GateLosses out;
  out.sparsity = std::abs(mean(vector.gates) - vector.dropped_share);
  for (const double g : vector.gates) {
    out.diversity += g * std::log(g + kEps) + (1 - g) * std::log(1 - g + kEps);
  }
  out.diversity /= static_cast<double>(vector.gates.size());
  if (vector.correlation_CC.defined()) {
    const at::Tensor identity_CC =
        at::eye(vector.correlation_CC.size(0), vector.correlation_CC.options());
    out.correlation = (vector.correlation_CC - identity_CC).abs().mean().item<double>();
  }
  out.stability = mean_square_distance(vector.gates, vector.running);
  if (!vector.history_mean.empty()) {
    out.consistency = mean_square_distance(vector.gates, vector.history_mean);
  }
  return out;
}

std::vector<double> gate_loss_slopes(const GateVector& vector) {
  const auto count = static_cast<double>(vector.gates.size());
  const double beyond = mean(vector.gates) - vector.dropped_share;
  const double of_sparsity = beyond > 0 ? 1 : beyond < 0 ? -1 : 0;
  std::vector<double> out;
  for (size_t i = 0; i < vector.gates.size(); ++i) {
    const double g = vector.gates[i];
    const double of_diversity =
        std::log(g + kEps) + g / (g + kEps) - std::log(1 - g + kEps) - (1 - g) / (1 - g + kEps);
    const double of_stability = 2 * (g - vector.running[i]);
    const double of_consistency =
        vector.history_mean.empty() ? 0 : 2 * (g - vector.history_mean[i]);
    out.push_back(
        (of_sparsity + GateLosses::kWeight * (of_diversity + of_stability + of_consistency)) /
        count);
  }
  return out;
}

std::vector<double> paper_scores(const ArchSpace& space, const std::vector<double>& logits,
                                 const PaperState& state) {
  std::vector<double> statics, scores(logits.size());
  for (const double logit : logits) statics.push_back(sigmoid(logit));
  for (const UnitGroup& group : space.groups()) {
    if (!has_columns(group.kind)) continue;
    add_scaled(group, statics, 0.3, scores);
    add_scaled(group, state.magnitude, 0.3, scores);
    add_scaled(group, state.feature, 0.2, scores);
    add_scaled(group, state.correlation, 0.2, scores);
  }
  return scores;
}

Mask paper_choice(const CostModel& costs, const std::vector<double>& logits,
                  const PaperState& state, const std::vector<Limit>& limits) {
  const std::vector<double> scores = paper_scores(costs.space(), logits, state);
  return keep_highest(costs.space(), scores, find_dropped_share(costs, scores, limits));
}

// With equal scores the last units go first, of which one may be smaller than the others: no
// other choice costs more.
PaperGates::PaperGates(const CostModel& costs, const Limit& limit, GateState& gates,
                       PaperState& state)
    : space_(costs.space()),
      dropped_share_(
          find_dropped_share(costs, std::vector<double>(space_.units().size()), {limit})),
      gates_(gates),
      state_(state) {}

void PaperGates::begin(uint64_t key) {
  const size_t count = space_.units().size();
  for (size_t unit = 0; unit < count; ++unit) {
    gates_.logits.push_back(kLogitDeviation * std::sqrt(-2 * std::log(uniform(key, 2 * unit))) *
                            std::cos(2 * std::numbers::pi * uniform(key, 2 * unit + 1)));
  }
  state_.running.assign(count, kFirstRunning);
  for (auto* values : {&state_.magnitude, &state_.feature, &state_.correlation}) {
    values->assign(count, kFirstAverage);
  }
}

const Mask& PaperGates::draw(uint64_t key) {
  soft_.clear();
  for (size_t unit = 0; unit < gates_.logits.size(); ++unit) {
    const double gumbel = -std::log(-std::log(uniform(key, unit)));
    soft_.push_back(sigmoid(gates_.logits[unit] + kNoise * gumbel));
  }
  mask_ = keep_highest(space_, soft_, dropped_share_);
  return mask_;
}

GateVector PaperGates::vector_of(const UnitGroup& group,
                                 const std::vector<GroupActivations>& seen) const {
  GateVector out;
  out.dropped_share = dropped_share_;
  for (size_t unit = group.begin; unit < group.end; ++unit) {
    out.gates.push_back(mask_[unit]);
    out.running.push_back(state_.running[unit]);
    if (state_.history.empty()) continue;
    const auto times = std::count_if(state_.history.begin(), state_.history.end(),
                                     [&](const std::string& step) { return step[unit] == '1'; });
    out.history_mean.push_back(static_cast<double>(times) /
                               static_cast<double>(state_.history.size()));
  }
  for (const GroupActivations& one : seen) {
    if (one.group == &group) out.correlation_CC = one.correlation_CC;
  }
  return out;
}

double PaperGates::learn(const std::vector<double>& slopes,
                         const std::vector<GroupActivations>& seen, double lr) {
  double losses = 0;
  std::vector<double> gradient(mask_.size());
  for (const UnitGroup& group : space_.groups()) {
    if (!has_columns(group.kind)) continue;
    const GateVector vector = vector_of(group, seen);
    losses += gate_losses(vector).total();
    const std::vector<double> own = gate_loss_slopes(vector);
    for (size_t i = 0; i < own.size(); ++i) {
      const size_t unit = group.begin + i;
      gradient[unit] = soft_[unit] * (1 - soft_[unit]) * (slopes[unit] + kLossWeight * own[i]);
    }
  }
  update_gates(gates_, gradient, lr);
  remember(seen);
  return losses;
}

void PaperGates::remember(const std::vector<GroupActivations>& seen) {
  std::string step;
  for (size_t unit = 0; unit < mask_.size(); ++unit) {
    average_in(state_.running[unit], mask_[unit]);
    step += mask_[unit] != 0 ? '1' : '0';
  }
  state_.history.push_back(std::move(step));
  if (state_.history.size() > kLongestHistory) state_.history.erase(state_.history.begin());
  for (const GroupActivations& one : seen) {
    const std::vector<at::Tensor> rows_C = one.correlation_CC.abs().unbind();
    for (size_t i = 0; i < one.group->size(); ++i) {
      const size_t unit = one.group->begin + i;
      if (!std::isfinite(one.magnitude[i]) || !std::isfinite(one.mean[i])) continue;
      average_in(state_.magnitude[unit], one.magnitude[i]);
      average_in(state_.feature[unit], sigmoid(one.mean[i]));
      average_in(state_.correlation[unit], 1 - rows_C[i].mean().item<double>());
    }
  }
}

}  // namespace locus::search
