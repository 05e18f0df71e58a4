// Rotary positions of one head as a loop over doubles: entry i pairs with entry i + C/2.
#pragma once

#include <cmath>

#include "tests/reference/matmul_reference.h"

namespace locus::reference {

inline Row rope(const Row& x, double position, double theta) {
  const size_t half = x.size() / 2;
  Row y(x.size());
  for (size_t i = 0; i < half; ++i) {
    const double exponent = 2.0 * static_cast<double>(i) / static_cast<double>(x.size());
    const double angle = position * std::pow(theta, -exponent);
    y[i] = x[i] * std::cos(angle) - x[half + i] * std::sin(angle);
    y[half + i] = x[half + i] * std::cos(angle) + x[i] * std::sin(angle);
  }
  return y;
}

}  // namespace locus::reference
