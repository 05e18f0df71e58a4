// Optimisers: one update of all parameters from their gradients.
#pragma once

#include <ATen/core/Tensor.h>

#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "locus/comm/parallel_context.h"
#include "locus/train/config.h"
#include "locus/train/parameter_parts.h"

namespace locus::train {

class Optimizer {
 public:
  explicit Optimizer(ParameterParts parts);
  virtual ~Optimizer() = default;

  // What it updates, in the order of the model.
  const ParameterParts& parts() const { return parts_; }

  // One update of the parts' values with their gradients divided by `grad_scale` (clipping costs no
  // pass of its own). Values without a gradient are left alone.
  virtual void step(double lr, double grad_scale) = 0;

  // State as named tensors that share memory with the optimiser: read them to save, copy into them
  // to load. Names are "<slot>.<parameter>"; shapes are those of the parts' values, or a scalar
  // that is the same for all parts of a parameter.
  virtual NamedTensors state() = 0;
  // The part that a tensor of the state, by its name, belongs to.
  const ParameterPart& part_of(const std::string& state_name) const;

 private:
  ParameterParts parts_;
  std::map<std::string, size_t> by_name_;
};

using MakeOptimizer = std::unique_ptr<Optimizer>(const OptimizerConfig&, ParameterParts parts);

struct OptimizerEntry {
  std::string_view name;
  std::string_view summary;
  MakeOptimizer* make;
};

std::span<const OptimizerEntry> optimizer_entries();
// With parts of the parameters or all of each, as make_parts() has it. ConfigError when there is no
// such optimiser.
std::unique_ptr<Optimizer> make_optimizer(const OptimizerConfig& config,
                                          const NamedTensors& parameters,
                                          const comm::ParallelContext& parallel = comm::alone());

// Global L2 norm of the gradients, in their type summed in double: each parameter counts once,
// whichever ranks have it. All ranks call it.
double gradient_norm(const ParameterParts& parts,
                     const comm::ParallelContext& parallel = comm::alone());

}  // namespace locus::train
