// find_notices(): the checks, each a small function that adds what it finds.
#include <algorithm>
#include <cmath>

#include "locus/base/format.h"
#include "locus/report/downsample.h"
#include "locus/report/summary.h"
#include "locus/report/text.h"

namespace locus::report {
namespace {

using Notices = std::vector<Notice>;

// Limits of what passes without a word.
constexpr double kLossRise = 1.02;  // last validation loss over the best one
constexpr double kDroppedShare = 0.01;
constexpr double kDataShare = 0.10;   // of the step time
constexpr double kStallShare = 0.03;  // of the step time, for checkpoints
constexpr double kMaxOverMean = 4.0;

void warn(Notices& notices, std::string text) {
  notices.push_back({Notice::Level::kWarning, std::move(text)});
}

void inform(Notices& notices, std::string text) {
  notices.push_back({Notice::Level::kInfo, std::move(text)});
}

void check_ending(const RunData& run, Notices& notices) {
  if (!run.end) {
    inform(notices, "There is no end line: the run is still going on, or was killed.");
  } else if (run.end->reason == "diverged") {
    warn(notices, format("Training diverged at step {}.", run.end->step));
  } else if (run.end->reason == "interrupted") {
    inform(notices, format("Training was interrupted at step {}.", run.end->step));
  }
  if (run.num_resumes > 0) {
    inform(notices, format("Resumed {}; steps that were run again count once.",
                           run.num_resumes == 1 ? "once" : format("{} times", run.num_resumes)));
  }
  if (run.num_torn_lines > 0) {
    inform(notices, format("metrics.jsonl: {} that a kill had cut off {} left out.",
                           counted(static_cast<double>(run.num_torn_lines), "line"),
                           run.num_torn_lines == 1 ? "was" : "were"));
  }
}

void check_loss(const RunData& run, Notices& notices) {
  const double skipped = run.train.back().skipped_steps;
  if (skipped > 0) {
    warn(notices,
         counted(skipped, "step") + " skipped: loss or gradient was not finite, or spiked.");
  }
  const auto missing = std::count_if(run.train.begin(), run.train.end(),
                                     [](const TrainPoint& p) { return !std::isfinite(p.loss); });
  if (missing > 0) {
    warn(notices, counted(static_cast<double>(missing), "training line") +
                      " without a finite loss: gaps in the curve.");
  }
  const ValidPoint* best = nullptr;
  for (const ValidPoint& point : run.valid) {
    if (best == nullptr || point.loss < best->loss) best = &point;
  }
  if (best != nullptr && run.valid.back().loss > kLossRise * best->loss) {
    warn(notices,
         format("The validation loss was lowest, {}, at step {} and has risen to {} since.",
                human_number(best->loss), best->step, human_number(run.valid.back().loss)));
  }
}

std::string expert_list(const std::vector<size_t>& experts) {
  std::string list;
  for (size_t i = 0; i < experts.size() && i < 8; ++i) {
    list += (i > 0 ? ", " : "") + std::to_string(experts[i]);
  }
  return experts.size() > 8 ? list + ", ..." : list;
}

void check_dead_experts(const RunData& run, Notices& notices) {
  for (const auto& [number, layer] : run.moe) {
    const MoePoint& last = layer.points.back();
    std::vector<size_t> dead;
    for (size_t expert = 0; expert < last.tokens_per_expert.size(); ++expert) {
      if (last.tokens_per_expert[expert] == 0) dead.push_back(expert);
    }
    if (dead.empty()) continue;
    warn(notices, format("Layer {}: {} of {} experts got no token in step {} (expert {}).", number,
                         dead.size(), last.tokens_per_expert.size(), last.step, expert_list(dead)));
  }
}

// Of the last tenth of the samples.
double recent_mean(const MoeLayerData& layer, double MoePoint::*member) {
  std::vector<double> values;
  for (size_t i = layer.points.size() * 9 / 10; i < layer.points.size(); ++i) {
    values.push_back(layer.points[i].*member);
  }
  return finite_mean(values);
}

// The layers in which a number is over its limit of late: how many, and the worst.
struct Excess {
  int64_t num_layers = 0;
  int64_t worst_layer = -1;
  double worst = 0;
};

Excess find_excess(const RunData& run, double MoePoint::*member, double limit) {
  Excess excess;
  for (const auto& [number, layer] : run.moe) {
    const double mean = recent_mean(layer, member);
    if (!(mean > limit)) continue;
    ++excess.num_layers;
    if (mean > excess.worst) excess.worst_layer = number;
    excess.worst = std::max(excess.worst, mean);
  }
  return excess;
}

// "In layer 3" or "In 4 layers, most in layer 3,"
std::string place_of(const Excess& excess) {
  if (excess.num_layers == 1) return format("In layer {}", excess.worst_layer);
  return format("In {} layers, most in layer {},", excess.num_layers, excess.worst_layer);
}

void check_routing(const RunData& run, Notices& notices) {
  const Excess dropped = find_excess(run, &MoePoint::dropped_share, kDroppedShare);
  if (dropped.num_layers > 0) {
    warn(notices, format("{} experts run out of capacity: up to {} of the assignments are dropped.",
                         place_of(dropped), human_percent(dropped.worst)));
  }
  const Excess unrouted = find_excess(run, &MoePoint::unrouted_share, kDroppedShare);
  if (unrouted.num_layers > 0) {
    inform(notices, format("{} up to {} of the tokens are taken by no expert.", place_of(unrouted),
                           human_percent(unrouted.worst)));
  }
  const Excess busy = find_excess(run, &MoePoint::load_max_over_mean, kMaxOverMean);
  if (busy.num_layers > 0) {
    warn(notices, format("{} the busiest expert gets up to {} times an even share.", place_of(busy),
                         human_number(busy.worst)));
  }
}

void check_time(const RunData& run, Notices& notices) {
  double step_s = 0;
  double data_s = 0;
  int64_t before = 0;
  for (const TrainPoint& point : run.train) {
    const auto steps = static_cast<double>(point.step - before);
    before = point.step;
    if (!std::isfinite(point.step_time_s)) continue;
    step_s += steps * point.step_time_s;
    if (std::isfinite(point.time_data_s)) data_s += steps * point.time_data_s;
  }
  if (data_s > kDataShare * step_s) {
    warn(notices,
         format("{} of the time went into waiting for data.", human_percent(data_s / step_s)));
  }
  double stall_s = 0;
  for (const CheckpointPoint& point : run.checkpoints) {
    if (std::isfinite(point.stall_s)) stall_s += point.stall_s;
  }
  if (stall_s > kStallShare * step_s) {
    warn(notices, format("Training stood still for {} in all while checkpoints were written.",
                         human_seconds(stall_s)));
  }
}

void check_trace(const RunData& run, Notices& notices) {
  if (run.trace_problem.empty()) return;
  warn(notices, run.trace_problem + ". The timeline of the step is left out.");
}

}  // namespace

std::vector<Notice> find_notices(const RunData& run) {
  Notices notices;
  check_ending(run, notices);
  check_loss(run, notices);
  check_dead_experts(run, notices);
  check_routing(run, notices);
  check_time(run, notices);
  check_trace(run, notices);
  std::stable_sort(notices.begin(), notices.end(), [](const Notice& a, const Notice& b) {
    return a.level == Notice::Level::kWarning && b.level != Notice::Level::kWarning;
  });
  return notices;
}

}  // namespace locus::report
