#include "locus/nn/rope.h"

#include <ATen/ATen.h>

#include <cmath>

#include "locus/base/error.h"

namespace locus::nn {

namespace {

at::Tensor llama3_frequencies(const at::Tensor& frequency, const RopeConfig& config) {
  const double context = static_cast<double>(config.original_context);
  const at::Tensor waves = frequency * (context / (2.0 * M_PI));  // in the original context
  const at::Tensor kept =
      ((waves - config.low_freq_factor) / (config.high_freq_factor - config.low_freq_factor))
          .clamp(0.0, 1.0);
  return frequency * kept + frequency / config.factor * (1.0 - kept);
}

}  // namespace

RopeTable rope_table(const at::Tensor& position_ids, const RopeConfig& config) {
  double theta = config.theta;
  double stretch = 1.0;
  const auto dim = static_cast<double>(config.head_dim);
  if (config.scaling == "linear") {
    stretch = config.factor;
  } else if (config.scaling == "ntk") {
    theta *= std::pow(config.factor, dim / (dim - 2.0));
  } else {
    LOCUS_CHECK(config.scaling == "none" || config.scaling == "llama3", "rope scaling {}",
                config.scaling);
  }
  // In double: float32 loses whole radians at long positions.
  const at::Tensor exponent =
      at::arange(0, config.head_dim, 2, position_ids.options().dtype(at::kDouble)) / dim;
  at::Tensor frequency = at::pow(theta, exponent.neg());
  if (config.scaling == "llama3") frequency = llama3_frequencies(frequency, config);
  const at::Tensor angle = position_ids.to(at::kDouble).unsqueeze(-1) / stretch * frequency;
  return {angle.cos().to(at::kFloat), angle.sin().to(at::kFloat)};
}

}  // namespace locus::nn
