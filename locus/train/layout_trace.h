// The proof of a layout: the same steps on the same data from the same weights, on ranks that are
// threads, and what they did, under global names. Two layouts that compute the same model leave the
// same trace but for rounding.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "locus/comm/config.h"
#include "locus/data/loader.h"
#include "locus/model/transformer.h"
#include "locus/train/config.h"
#include "locus/train/extra_passes.h"
#include "locus/train/optimizer.h"

namespace locus::train {

// ep x dp ranks: experts over ep of them, dp such groups. Exchanges that know nodes see two of them
// in each group of ep ranks, unless the configuration says how many ranks a node has.
struct LayoutName {
  std::string text;
  int64_t ep = 1;
  int64_t dp = 1;
  bool zero1 = false;  // with a distributed optimiser
  std::string exchange = "flat";
  int64_t chunks = 1;
  bool placed = false;  // sequences on other ranks at every step
  bool moved = false;   // experts on other ranks after every step
  int64_t world_size() const { return ep * dp; }
};

// "1", "ep4", "dp2", "ep2dp2", "ep4:hierarchical", "ep4:dedup:chunks2", "dp2:zero1",
// "ep4:placed:moved". ConfigError that shows the form.
LayoutName parse_layout(const std::string& text);

// Where a test plants a fault, rank by rank: the proof has to find it. Empty: nothing.
struct TraceHooks {
  std::function<void(model::TransformerConfig&)> shape;
  std::function<void(const comm::ParallelContext&, model::Transformer&)> model;
  std::function<void(const comm::ParallelContext&, std::vector<data::Batch>&)> batches;
};

// The model and its optimiser, which may be others after a step.
struct TracedModel {
  std::shared_ptr<model::Transformer> transformer;
  std::unique_ptr<Optimizer> optimizer;
};

struct TraceConfig {
  model::TransformerConfig transformer;  // parallel is the layout's
  TrainConfig train;                     // micro_batch_size: of all ranks together
  OptimizerConfig optimizer;
  double lr = 1e-3;
  int64_t num_steps = 3;
  int64_t ranks_per_node = 0;  // 0: two nodes for each group of ep ranks
  bool float64 = true;
  // What steps compute beside the model's own passes, for each rank; empty: nothing.
  std::function<std::unique_ptr<ExtraPasses>(model::Transformer&)> make_extra;
  // Called after each step (number of finished ones), on every rank; true: the model is another one
  // from now on.
  std::function<bool(int64_t step, TracedModel&)> after_step;
  TraceHooks hooks;

  // Transformer of this shape, and an optimiser for it, in the type that the trace computes in.
  TracedModel make(const model::TransformerConfig& shape) const;
};

struct TraceStep {
  double loss = 0, aux_loss = 0, grad_norm = 0;
  // After the step; experts one by one, by their numbers in the layer.
  std::map<std::string, at::Tensor> parameters;
};

// ConfigError where the layout's ranks cannot share the micro-batch or the experts, or there are
// too many parts.
void check_layout(const LayoutName& layout, const TraceConfig& config);

// check_layout(), then the training.
std::vector<TraceStep> trace_layout(const LayoutName& layout, const TraceConfig& config,
                                    const std::shared_ptr<const data::SampleSource>& source);

struct TraceDifference {
  double largest = 0;  // relative, over everything that was compared
  int64_t step = 0;    // of the first one over the tolerance, from 1; 0: there is none
  std::string what;    // "loss", "layers.1.moe.experts.3.up_proj", ...
  double relative = 0;
};

// Relative to the larger of the two sizes (losses, norms), or to the largest value of the tensor.
TraceDifference compare_traces(const std::vector<TraceStep>& expected,
                               const std::vector<TraceStep>& found, double tolerance);

}  // namespace locus::train
