#include "locus/compare/result.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "locus/base/error.h"
#include "locus/compare/statistics.h"
#include "locus/report/run_data.h"

namespace locus::compare {
namespace {

constexpr double kNone = std::numeric_limits<double>::quiet_NaN();

// Seconds of training up to each line of metrics, and FLOPs.
struct Spent {
  double step, flops, wall_s;
};

std::vector<Spent> spent_of(const report::RunData& run) {
  std::vector<Spent> spent{{0, 0, 0}};
  for (const report::TrainPoint& point : run.train) {
    const auto step = static_cast<double>(point.step);
    spent.push_back(
        {step, point.flops, spent.back().wall_s + point.step_time_s * (step - spent.back().step)});
  }
  return spent;
}

// Between lines by straight lines.
Spent spent_at(const std::vector<Spent>& spent, double step) {
  for (size_t i = 1; i < spent.size(); ++i) {
    const Spent &from = spent[i - 1], &to = spent[i];
    if (step > to.step) continue;
    const double share = to.step > from.step ? (step - from.step) / (to.step - from.step) : 1;
    return {step, from.flops + share * (to.flops - from.flops),
            from.wall_s + share * (to.wall_s - from.wall_s)};
  }
  return spent.back();
}

double mean_of_last(const report::RunData& run, double report::MoePoint::*number) {
  if (run.train.empty()) return kNone;
  const auto last = static_cast<double>(run.train.back().step);
  std::vector<double> values;
  for (const auto& [layer, data] : run.moe) {
    for (const report::MoePoint& point : data.points) {
      if (static_cast<double>(point.step) > 0.9 * last && std::isfinite(point.*number)) {
        values.push_back(point.*number);
      }
    }
  }
  return mean_of(values);
}

}  // namespace

bool is_finished(const fs::path& folder) {
  if (!fs::exists(folder / "metrics.jsonl")) return false;
  try {
    const report::RunData run = report::load_run(folder);
    return run.end && run.end->reason == "finished";
  } catch (const DataError&) {  // killed before it had anything to tell
    return false;
  }
}

Result read_result(const std::string& variant, int64_t seed, const fs::path& folder) {
  const report::RunData run = report::load_run(folder);
  if (run.valid.empty()) {
    throw DataError("{}: has no validation loss; the data need a valid split", folder.string());
  }
  Result result;
  result.variant = variant;
  result.seed = seed;
  result.folder = folder.string();
  const std::vector<Spent> spent = spent_of(run);
  for (const report::ValidPoint& point : run.valid) {
    const Spent by_then = spent_at(spent, static_cast<double>(point.step));
    result.curve.push_back({by_then.step, by_then.flops, by_then.wall_s, point.loss});
  }
  result.loss = run.valid.back().loss;
  result.steps = spent.back().step;
  result.flops = spent.back().flops;
  result.wall_s = spent.back().wall_s;
  result.active_parameters = run.info.active_parameters;
  result.peak_rss_bytes = run.end ? run.end->peak_rss_bytes : kNone;
  result.experts_per_token = mean_of_last(run, &report::MoePoint::experts_per_token);
  result.dropped_share = mean_of_last(run, &report::MoePoint::dropped_share);
  result.load_max_over_mean = mean_of_last(run, &report::MoePoint::load_max_over_mean);
  return result;
}

double reached_at(const std::vector<CurvePoint>& curve, double loss, double CurvePoint::*axis) {
  for (size_t i = 0; i < curve.size(); ++i) {
    if (!(curve[i].loss <= loss)) continue;
    if (i == 0) return curve[i].*axis;
    const CurvePoint &from = curve[i - 1], &to = curve[i];
    const double share = (from.loss - loss) / (from.loss - to.loss);
    return from.*axis + share * (to.*axis - from.*axis);
  }
  return kNone;
}

}  // namespace locus::compare
