// The feed-forward network of one token as loops over doubles.
#pragma once

#include <cmath>
#include <string_view>

#include "tests/reference/matmul_reference.h"

namespace locus::reference {

struct FeedForward {
  Matrix up;      // [U, D]; swiglu: gate rows first, then up rows
  Row up_bias;    // empty: none
  Matrix down;    // [D, F]
  Row down_bias;  // empty: none
};

inline double silu(double x) { return x / (1 + std::exp(-x)); }
inline double gelu(double x) { return 0.5 * x * (1 + std::erf(x / std::sqrt(2.0))); }
inline double gelu_new(double x) {
  const double pi = std::acos(-1.0);
  return 0.5 * x * (1 + std::tanh(std::sqrt(2 / pi) * (x + 0.044715 * x * x * x)));
}

inline Row activate(const Row& up, std::string_view activation) {
  Row active;
  if (activation == "swiglu") {
    const size_t width = up.size() / 2;
    for (size_t f = 0; f < width; ++f) active.push_back(silu(up[f]) * up[width + f]);
    return active;
  }
  for (const double value : up) {
    active.push_back(activation == "gelu" ? gelu(value) : gelu_new(value));
  }
  return active;
}

inline Row feed_forward(const FeedForward& net, const Row& x, std::string_view activation) {
  return linear(net.down, net.down_bias, activate(linear(net.up, net.up_bias, x), activation));
}

}  // namespace locus::reference
