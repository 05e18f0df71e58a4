#include "locus/report/downsample.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace locus::report {

std::vector<Range> split_evenly(size_t size, size_t max_ranges) {
  const size_t count = std::min(size, max_ranges);
  std::vector<Range> ranges;
  ranges.reserve(count);
  for (size_t i = 0; i < count; ++i) ranges.push_back({size * i / count, size * (i + 1) / count});
  return ranges;
}

std::vector<size_t> min_max_indices(std::span<const double> values, size_t max_points) {
  std::vector<size_t> indices;
  if (values.size() <= max_points) {
    for (size_t i = 0; i < values.size(); ++i) indices.push_back(i);
    return indices;
  }
  indices.push_back(0);
  for (const auto& [begin, end] : split_evenly(values.size() - 2, (max_points - 2) / 2)) {
    const size_t none = values.size();
    size_t least = none;
    size_t most = none;
    for (size_t i = begin + 1; i < end + 1; ++i) {
      if (!std::isfinite(values[i])) continue;
      if (least == none || values[i] < values[least]) least = i;
      if (most == none || values[i] > values[most]) most = i;
    }
    if (least == none) least = most = begin + 1;
    indices.push_back(std::min(least, most));
    if (least != most) indices.push_back(std::max(least, most));
  }
  indices.push_back(values.size() - 1);
  return indices;
}

double finite_mean(std::span<const double> values) {
  double sum = 0;
  size_t count = 0;
  for (const double value : values) {
    if (!std::isfinite(value)) continue;
    sum += value;
    ++count;
  }
  return count > 0 ? sum / static_cast<double>(count) : std::numeric_limits<double>::quiet_NaN();
}

}  // namespace locus::report
