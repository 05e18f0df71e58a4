// Learning-rate schedules: the rate as a pure function of the step.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "locus/train/config.h"

namespace locus::train {

struct LrScheduleEntry {
  std::string_view name;
  std::string_view summary;
  // After the warm-up; step in [warmup_steps, max_steps).
  double (*rate)(const LrScheduleConfig&, int64_t step, int64_t max_steps);
};

std::span<const LrScheduleEntry> lr_schedule_entries();

// The rate of optimiser step `step` (from 0): linear warm-up (step + 1) / warmup_steps, then the
// schedule.
double learning_rate(const LrScheduleConfig& config, int64_t step, int64_t max_steps);

}  // namespace locus::train
