#include "locus/train/optimizer.h"

#include <ATen/ATen.h>

#include <cmath>

#include "locus/base/error.h"

namespace locus::train {

MakeOptimizer make_adamw;

namespace {

constexpr OptimizerEntry kOptimizers[] = {
    {"adamw", "Adam with decoupled weight decay (Loshchilov and Hutter, 2019), fused", make_adamw},
};

}  // namespace

std::span<const OptimizerEntry> optimizer_entries() { return kOptimizers; }

std::unique_ptr<Optimizer> make_optimizer(const OptimizerConfig& config,
                                          const NamedTensors& parameters) {
  for (const OptimizerEntry& entry : kOptimizers) {
    if (entry.name == config.type) return entry.make(config, parameters);
  }
  throw ConfigError("optimizer.type = \"{}\" is not an optimiser; see `locus list optimizers`",
                    config.type);
}

bool has_weight_decay(const std::string& name, const at::Tensor& parameter) {
  return parameter.dim() >= 2 && !name.ends_with("bias");
}

double gradient_norm(const NamedTensors& parameters) {
  std::vector<at::Tensor> gradients;
  for (const auto& [name, parameter] : parameters) {
    if (parameter.grad().defined()) gradients.push_back(parameter.grad());
  }
  if (gradients.empty()) return 0;
  const at::NoGradGuard no_grad;
  return at::stack(at::_foreach_norm(gradients, 2)).to(at::kDouble).norm().item<double>();
}

}  // namespace locus::train
