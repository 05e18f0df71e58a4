// Optimisers: one update of all parameters from their gradients.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "locus/comm/process_group.h"
#include "locus/train/config.h"

namespace locus::train {

using NamedTensors = std::vector<std::pair<std::string, at::Tensor>>;

class Optimizer {
 public:
  virtual ~Optimizer() = default;

  // One update with the gradients divided by `grad_scale` (clipping costs no pass of its own).
  // Parameters without a gradient are left alone.
  virtual void step(double lr, double grad_scale) = 0;

  // State as named tensors that share memory with the optimiser: read them to save, copy into them
  // to load. Names are "<slot>.<parameter>".
  virtual NamedTensors state() = 0;
};

using MakeOptimizer = std::unique_ptr<Optimizer>(const OptimizerConfig&,
                                                 const NamedTensors& parameters);

struct OptimizerEntry {
  std::string_view name;
  std::string_view summary;
  MakeOptimizer* make;
};

std::span<const OptimizerEntry> optimizer_entries();
// ConfigError when there is no such optimiser.
std::unique_ptr<Optimizer> make_optimizer(const OptimizerConfig& config,
                                          const NamedTensors& parameters);

// Whether weight decay applies: matrices alone, not norms, biases or router biases.
bool has_weight_decay(const std::string& name, const at::Tensor& parameter);

// Global L2 norm of the gradients, in float32 summed in double. `ep`: the ranks that have other
// experts; the dense parameters are the same on all of them. Null: this rank has all.
double gradient_norm(const NamedTensors& parameters, comm::ProcessGroup* ep = nullptr);

}  // namespace locus::train
