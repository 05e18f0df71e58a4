#include "locus/moe/capacity_bound.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "locus/base/error.h"

namespace locus::moe {
namespace {

// The continued fraction of the incomplete beta function by Lentz's method: converges fast for
// x < (a + 1) / (a + b + 2).
double beta_fraction(double a, double b, double x) {
  constexpr int kMostTerms = 10'000;
  constexpr double kTiny = 1e-300;
  double c = 1, d = 1 - (a + b) * x / (a + 1);
  d = 1 / (std::abs(d) < kTiny ? kTiny : d);
  double value = d;
  const auto take = [&](double numerator) {
    d = 1 + numerator * d;
    d = 1 / (std::abs(d) < kTiny ? kTiny : d);
    c = 1 + numerator / c;
    if (std::abs(c) < kTiny) c = kTiny;
    value *= d * c;
    return d * c;
  };
  for (int m = 1; m <= kMostTerms; ++m) {
    take(m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)));
    const double factor = take(-(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)));
    if (std::abs(factor - 1) <= 4 * std::numeric_limits<double>::epsilon()) break;
  }
  return value;
}

// I_x(a, b) for x below the mean, 1 - I_x(a, b) = I_{1-x}(b, a) above it.
double beta_part(double a, double b, double x, double one_minus_x) {
  const double front = std::exp(std::lgamma(a + b) - std::lgamma(a) - std::lgamma(b) +
                                a * std::log(x) + b * std::log(one_minus_x));
  return front * beta_fraction(a, b, x) / a;
}

}  // namespace

double chance_of_angle(double delta, int64_t hidden_size) {
  LOCUS_CHECK(hidden_size >= 2 && delta >= -1 && delta <= 1, "cosine {} in {} dimensions", delta,
              hidden_size);
  const double x = delta * delta;
  if (x == 0) return 1;
  if (x == 1) return 0;
  const double a = 0.5, b = 0.5 * static_cast<double>(hidden_size - 1);
  // The tail itself where it is the small one: 1 - I would lose it.
  return x < (a + 1) / (a + b + 2) ? 1 - beta_part(a, b, x, 1 - x) : beta_part(b, a, 1 - x, x);
}

double capacity_bound(double delta, int64_t hidden_size, int64_t num_experts) {
  const double chance = chance_of_angle(std::clamp(delta, 0.0, 1.0), hidden_size);
  return chance > 0 ? 1 / (static_cast<double>(num_experts) * chance)
                    : std::numeric_limits<double>::infinity();
}

}  // namespace locus::moe
