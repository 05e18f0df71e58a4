#include "locus/nn/rope.h"

#include <ATen/ATen.h>

#include <cmath>

#include "locus/base/error.h"

namespace locus::nn {

RopeTable rope_table(const at::Tensor& position_ids, const RopeConfig& config) {
  double theta = config.theta;
  double stretch = 1.0;
  const auto dim = static_cast<double>(config.head_dim);
  if (config.scaling == "linear") {
    stretch = config.factor;
  } else if (config.scaling == "ntk") {
    theta *= std::pow(config.factor, dim / (dim - 2.0));
  } else {
    LOCUS_CHECK(config.scaling == "none", "rope scaling {}", config.scaling);
  }
  // In double: float32 loses whole radians at long positions.
  const at::Tensor exponent =
      at::arange(0, config.head_dim, 2, position_ids.options().dtype(at::kDouble)) / dim;
  const at::Tensor frequency = at::pow(theta, exponent.neg());
  const at::Tensor angle = position_ids.to(at::kDouble).unsqueeze(-1) / stretch * frequency;
  return {angle.cos().to(at::kFloat), angle.sin().to(at::kFloat)};
}

}  // namespace locus::nn
