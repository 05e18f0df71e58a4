#include "locus/train/optimizer.h"

#include <ATen/ATen.h>

#include <cmath>

#include "locus/base/error.h"
#include "locus/comm/collectives.h"
#include "locus/train/gradient_reducer.h"

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

namespace {

double square_sum(const std::vector<at::Tensor>& gradients) {
  if (gradients.empty()) return 0;
  const double norm =
      at::stack(at::_foreach_norm(gradients, 2)).to(at::kDouble).norm().item<double>();
  return norm * norm;
}

}  // namespace

double gradient_norm(const NamedTensors& parameters, comm::ProcessGroup* ep) {
  const at::NoGradGuard no_grad;
  std::vector<at::Tensor> shared, own;
  for (const auto& [name, parameter] : parameters) {
    if (!parameter.grad().defined()) continue;
    (ep != nullptr && is_expert_parameter(name) ? own : shared).push_back(parameter.grad());
  }
  double sum = square_sum(shared);
  if (ep != nullptr) {
    sum += comm::sum_over(ep, at::full({1}, square_sum(own), at::kDouble)).item<double>();
  }
  return std::sqrt(sum);
}

}  // namespace locus::train
