#include "locus/compare/statistics.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "locus/base/error.h"

namespace locus::compare {

double mean_of(const std::vector<double>& values) {
  if (values.empty()) return std::numeric_limits<double>::quiet_NaN();
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

double deviation_of(const std::vector<double>& values) {
  if (values.size() < 2) return std::numeric_limits<double>::quiet_NaN();
  const double mean = mean_of(values);
  double sum = 0;
  for (const double value : values) sum += (value - mean) * (value - mean);
  return std::sqrt(sum / static_cast<double>(values.size() - 1));
}

double student_t(int freedom) {
  LOCUS_CHECK(freedom >= 1, "{} degrees of freedom", freedom);
  constexpr double kTable[] = {12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646,
                               2.3060,  2.2622, 2.2281, 2.2010, 2.1788, 2.1604, 2.1448,
                               2.1314,  2.1199, 2.1098, 2.1009, 2.0930, 2.0860};
  if (freedom <= static_cast<int>(std::size(kTable))) return kTable[freedom - 1];
  // Cornish and Fisher's expansion around the normal quantile: to 1e-4 from here on.
  const double z = 1.959964, n = freedom;
  const double z3 = z * z * z, z5 = z3 * z * z, z7 = z5 * z * z;
  return z + (z3 + z) / (4 * n) + (5 * z5 + 16 * z3 + 3 * z) / (96 * n * n) +
         (3 * z7 + 19 * z5 + 17 * z3 - 15 * z) / (384 * n * n * n);
}

PairedDifference paired_difference(const std::vector<double>& values,
                                   const std::vector<double>& base) {
  LOCUS_CHECK(values.size() == base.size(), "{} and {} values", values.size(), base.size());
  std::vector<double> differences;
  for (size_t i = 0; i < values.size(); ++i) differences.push_back(values[i] - base[i]);
  const double mean = mean_of(differences);
  if (differences.size() < 2) return {mean, std::nan(""), std::nan("")};
  const auto count = static_cast<double>(differences.size());
  const double half = student_t(static_cast<int>(differences.size()) - 1) *
                      deviation_of(differences) / std::sqrt(count);
  return {mean, mean - half, mean + half};
}

}  // namespace locus::compare
