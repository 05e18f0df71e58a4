// What a step computes beside its own forward and backward pass: the slot that search/ fills with
// smaller models inside the one that is trained.
#pragma once

#include <cstdint>

#include "locus/data/batch.h"
#include "locus/model/batch_tensors.h"
#include "locus/train/metrics.h"

namespace locus::train {

class ExtraPasses {
 public:
  virtual ~ExtraPasses() = default;

  // Before the first micro-batch. The weight of the step's own loss; 1: nothing is added to it.
  virtual double begin_step(int64_t step) = 0;

  struct MicroBatch {
    const model::BatchTensors& tensors;
    at::Tensor hidden_TD;    // what the model itself made of it, without gradients
    double num_labels = 1;   // of the global batch
    double batch_share = 1;  // of a step's micro-batches, this one
  };
  // After the model's own backward pass. Where the weight is 1 it is not called.
  virtual void run(const MicroBatch& batch) = 0;

  // After the last micro-batch, before gradients are summed over the ranks: adds its own to those
  // of the parameters.
  virtual void add_gradients() = 0;

  // The gradients are those of the global batch, not clipped; the update is still to come.
  virtual void see_gradients() = 0;

  // Adds what it has to say since the last time to a line of metrics.
  virtual void report(MetricLine& line) = 0;

  // Of a token, for what it computed in this step beside the model's own passes.
  virtual double flops_per_token() const = 0;
};

}  // namespace locus::train
