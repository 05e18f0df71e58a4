// Fewer points for the eye: a chart is about a thousand pixels wide, a run may have a million
// steps.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace locus::report {

struct Range {
  size_t begin, end;
};

// [0, size) in at most `max_ranges` parts of nearly equal length, in order, none empty.
std::vector<Range> split_evenly(size_t size, size_t max_ranges);

// Ascending indices of at most `max_points` (>= 4) values that draw the same picture: the first,
// the last, and of every part the smallest and the largest, so that no spike is lost. Values that
// are not finite are kept only where a whole part is such (a gap).
std::vector<size_t> min_max_indices(std::span<const double> values, size_t max_points);

// Mean of the finite values; NaN when there are none.
double finite_mean(std::span<const double> values);

}  // namespace locus::report
