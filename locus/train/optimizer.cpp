#include "locus/train/optimizer.h"

#include <ATen/ATen.h>

#include <cmath>

#include "locus/base/error.h"
#include "locus/comm/collectives.h"

namespace locus::train {

MakeOptimizer make_adamw;

namespace {

constexpr OptimizerEntry kOptimizers[] = {
    {"adamw", "Adam with decoupled weight decay (Loshchilov and Hutter, 2019), fused", make_adamw},
};

}  // namespace

std::span<const OptimizerEntry> optimizer_entries() { return kOptimizers; }

std::unique_ptr<Optimizer> make_optimizer(const OptimizerConfig& config,
                                          const NamedTensors& parameters,
                                          const comm::ParallelContext& parallel) {
  for (const OptimizerEntry& entry : kOptimizers) {
    if (entry.name == config.type) return entry.make(config, make_parts(parameters, parallel));
  }
  throw ConfigError("optimizer.type = \"{}\" is not an optimiser; see `locus list optimizers`",
                    config.type);
}

Optimizer::Optimizer(ParameterParts parts) : parts_(std::move(parts)) {
  for (size_t i = 0; i < parts_.size(); ++i) by_name_.emplace(parts_[i].name, i);
}

const ParameterPart& Optimizer::part_of(const std::string& state_name) const {
  return parts_[by_name_.at(state_name.substr(state_name.find('.') + 1))];
}

namespace {

double square_sum(const std::vector<at::Tensor>& gradients) {
  if (gradients.empty()) return 0;
  const double norm =
      at::stack(at::_foreach_norm(gradients, 2)).to(at::kDouble).norm().item<double>();
  return norm * norm;
}

}  // namespace

double gradient_norm(const ParameterParts& parts, const comm::ParallelContext& parallel) {
  const at::NoGradGuard no_grad;
  // The ranks over which each has something that the others have not. Where a distributed optimiser
  // has whole experts, all ranks are one expert-parallel group.
  comm::ProcessGroup* group =
      (parallel.use_distributed_optimizer ? parallel.world : parallel.ep).get();
  std::vector<at::Tensor> shared, own;
  for (const ParameterPart& part : parts) {
    if (!part.value.grad().defined()) continue;
    const bool is_own = group != nullptr && (part.is_expert || !part.is_whole());
    (is_own ? own : shared).push_back(part.value.grad());
  }
  double sum = square_sum(shared);
  if (group != nullptr) {
    sum += comm::sum_over(group, at::full({1}, square_sum(own), at::kDouble)).item<double>();
  }
  return std::sqrt(sum);
}

}  // namespace locus::train
