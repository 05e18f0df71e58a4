#include "locus/nn/norm.h"

#include <ATen/ATen.h>

#include "locus/base/error.h"
#include "locus/ops/rms_norm.h"

namespace locus::nn {

NormType parse_norm(std::string_view name) {
  if (name == "rmsnorm") return NormType::kRms;
  if (name == "layernorm") return NormType::kLayer;
  throw ConfigError("norm_type = \"{}\" is not a norm; known: rmsnorm, layernorm", name);
}

Norm::Norm(NormType type, int64_t size, double eps) : type_(type), eps_(eps) {
  weight = register_parameter("weight", at::empty({size}));
  if (type == NormType::kLayer) bias = register_parameter("bias", at::empty({size}));
}

at::Tensor Norm::forward(const at::Tensor& x) const {
  if (type_ == NormType::kRms) return ops::rms_norm(x, weight, eps_);
  return at::layer_norm(x, weight.sizes(), weight.to(x.dtype()), bias.to(x.dtype()), eps_);
}

}  // namespace locus::nn
