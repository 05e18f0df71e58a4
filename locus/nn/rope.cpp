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

at::Tensor apply_rope(const at::Tensor& x_BSHC, const RopeTable& table) {
  const auto type = x_BSHC.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor cos = table.cos.unsqueeze(2).to(type);
  const at::Tensor sin = table.sin.unsqueeze(2).to(type);
  const auto halves = x_BSHC.to(type).chunk(2, -1);
  return at::cat({halves[0] * cos - halves[1] * sin, halves[1] * cos + halves[0] * sin}, -1)
      .to(x_BSHC.dtype());
}

}  // namespace locus::nn
