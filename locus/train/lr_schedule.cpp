#include "locus/train/lr_schedule.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "locus/base/error.h"

namespace locus::train {
namespace {

// How much of a decay that starts at `begin` and takes `length` steps is over, in [0, 1].
double progress(int64_t step, int64_t begin, int64_t length) {
  if (length <= 0) return step >= begin ? 1.0 : 0.0;
  return std::clamp(static_cast<double>(step - begin) / static_cast<double>(length), 0.0, 1.0);
}

double decay_after_warmup(const LrScheduleConfig& c, int64_t step, int64_t max_steps) {
  return progress(step, c.warmup_steps,
                  c.decay_steps > 0 ? c.decay_steps : max_steps - c.warmup_steps);
}

double constant_rate(const LrScheduleConfig& c, int64_t /*step*/, int64_t /*max_steps*/) {
  return c.lr;
}

double linear_rate(const LrScheduleConfig& c, int64_t step, int64_t max_steps) {
  return c.lr + (c.min_lr - c.lr) * decay_after_warmup(c, step, max_steps);
}

double cosine_rate(const LrScheduleConfig& c, int64_t step, int64_t max_steps) {
  const double share =
      0.5 * (1.0 + std::cos(std::numbers::pi * decay_after_warmup(c, step, max_steps)));
  return c.min_lr + (c.lr - c.min_lr) * share;
}

double inverse_sqrt_rate(const LrScheduleConfig& c, int64_t step, int64_t /*max_steps*/) {
  const auto knee = static_cast<double>(std::max<int64_t>(c.warmup_steps, 1));
  return std::max(c.min_lr, c.lr * std::sqrt(knee / std::max(static_cast<double>(step + 1), knee)));
}

double wsd_rate(const LrScheduleConfig& c, int64_t step, int64_t max_steps) {
  const int64_t length = c.decay_steps > 0 ? c.decay_steps : max_steps / 10;
  return c.lr + (c.min_lr - c.lr) * progress(step, max_steps - length, length);
}

constexpr LrScheduleEntry kSchedules[] = {
    {"constant", "the peak rate throughout", constant_rate},
    {"linear", "straight down to min_lr", linear_rate},
    {"cosine", "half a cosine down to min_lr (Loshchilov and Hutter, 2017)", cosine_rate},
    {"inverse_sqrt", "lr * sqrt(warmup / step), not below min_lr (Vaswani et al., 2017)",
     inverse_sqrt_rate},
    {"wsd", "warm-up, stable, then a linear decay at the end (Hu et al., 2024)", wsd_rate},
};

}  // namespace

std::span<const LrScheduleEntry> lr_schedule_entries() { return kSchedules; }

double learning_rate(const LrScheduleConfig& config, int64_t step, int64_t max_steps) {
  if (step < config.warmup_steps) {
    return config.lr * static_cast<double>(step + 1) / static_cast<double>(config.warmup_steps);
  }
  for (const LrScheduleEntry& entry : kSchedules) {
    if (entry.name == config.type) return entry.rate(config, step, max_steps);
  }
  throw ConfigError("lr_schedule.type = \"{}\" is not a schedule; see `locus list schedules`",
                    config.type);
}

}  // namespace locus::train
