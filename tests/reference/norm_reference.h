// RMSNorm and LayerNorm of one vector as loops over doubles.
#pragma once

#include <cmath>

#include "tests/reference/matmul_reference.h"

namespace locus::reference {

inline Row rms_norm(const Row& x, const Row& weight, double eps) {
  double squares = 0;
  for (const double value : x) squares += value * value;
  const double scale = 1 / std::sqrt(squares / static_cast<double>(x.size()) + eps);
  Row y;
  for (size_t i = 0; i < x.size(); ++i) y.push_back(x[i] * scale * weight[i]);
  return y;
}

inline Row layer_norm(const Row& x, const Row& weight, const Row& bias, double eps) {
  double mean = 0;
  for (const double value : x) mean += value / static_cast<double>(x.size());
  double variance = 0;
  for (const double value : x) {
    variance += (value - mean) * (value - mean) / static_cast<double>(x.size());
  }
  Row y;
  for (size_t i = 0; i < x.size(); ++i) {
    y.push_back((x[i] - mean) / std::sqrt(variance + eps) * weight[i] + bias[i]);
  }
  return y;
}

}  // namespace locus::reference
