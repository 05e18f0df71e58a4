// RMSNorm (Zhang and Sennrich, 2019) and LayerNorm over the last dimension.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <string_view>

namespace locus::nn {

enum class NormType { kRms, kLayer };

// "rmsnorm" | "layernorm"; ConfigError otherwise.
NormType parse_norm(std::string_view name);

class Norm : public torch::nn::Module {
 public:
  Norm(NormType type, int64_t size, double eps);
  at::Tensor forward(const at::Tensor& x) const;

  at::Tensor weight;  // [size]
  at::Tensor bias;    // [size], LayerNorm alone

 private:
  NormType type_;
  double eps_;
};

}  // namespace locus::nn
