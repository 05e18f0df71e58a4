// What a training has come to, out of its metrics.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "locus/base/file.h"

namespace locus::compare {

// A validation, and what had been spent by then.
struct CurvePoint {
  double step = 0, flops = 0, wall_s = 0, loss = 0;
};

struct Result {
  std::string variant;
  int64_t seed = 0;
  std::string folder;
  std::vector<CurvePoint> curve;  // rising steps
  double loss = 0, flops = 0, wall_s = 0, steps = 0;
  double active_parameters = 0, peak_rss_bytes = 0;
  // Means over layers, of the last tenth of the steps; NaN without experts.
  double experts_per_token = 0, dropped_share = 0, load_max_over_mean = 0;
};

bool is_finished(const fs::path& folder);

// DataError where the training has no validation loss to be compared by.
Result read_result(const std::string& variant, int64_t seed, const fs::path& folder);

// What had been spent when the curve first was at `loss` or below, between points by straight
// lines; NaN: never.
double reached_at(const std::vector<CurvePoint>& curve, double loss, double CurvePoint::*axis);

}  // namespace locus::compare
