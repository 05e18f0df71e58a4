// What a few seeds say: mean, spread, and how sure a difference is.
#pragma once

#include <vector>

namespace locus::compare {

double mean_of(const std::vector<double>& values);
// Standard deviation of the sample; NaN for fewer than two.
double deviation_of(const std::vector<double>& values);

// 97.5th percentile of Student's t distribution; `freedom` from 1.
double student_t(int freedom);

// Of pairs, the i-th of both with the same seed: mean of `values` - `base`, and the 95% confidence
// interval of it (t distribution). One pair has no interval: NaN.
struct PairedDifference {
  double mean, low, high;
  bool is_sure() const { return low > 0 || high < 0; }  // 0 is outside
};
PairedDifference paired_difference(const std::vector<double>& values,
                                   const std::vector<double>& base);

}  // namespace locus::compare
