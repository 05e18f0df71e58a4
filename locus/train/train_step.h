// One optimiser step: forward and backward over the micro-batches of a global batch, guard, update.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "locus/data/batch.h"
#include "locus/model/transformer.h"
#include "locus/ops/distillation.h"
#include "locus/train/checkpoint.h"
#include "locus/train/config.h"
#include "locus/train/extra_passes.h"
#include "locus/train/gradient_reducer.h"
#include "locus/train/optimizer.h"

namespace locus::train {

struct StepResult {
  double loss = 0;  // nats per token, mean over the tokens with a label of the whole global batch
  double aux_loss = 0;   // mean over the micro-batches, coefficients applied
  double grad_norm = 0;  // before clipping
  int64_t num_labels = 0;
  int signal = 0;       // that any rank has received by the end of the step
  std::string skipped;  // why there was no update; empty: there was one
  double forward_s = 0, backward_s = 0, optimizer_s = 0;
  double reduce_s = 0;  // waited for other ranks: sums of gradients, new values of parameters
};

class TrainStep {
 public:
  // `optimizer`: of the transformer's parameters and ranks.
  TrainStep(model::Transformer& transformer, Optimizer& optimizer, const TrainConfig& config,
            at::Device device);

  // Of every step from now on; null: none. It outlives this.
  void set_extra_passes(ExtraPasses* extra) { extra_ = extra; }

  // In place of labels alone, from now on: label_share * cross entropy + the rest * KL(teacher ||
  // model). It is whole on each rank, and computes this rank's tokens. The loss that is told stays
  // the cross entropy.
  void set_teacher(std::shared_ptr<model::Transformer> teacher, double label_share);

  // `micro_batches`: this rank's; all else is of all ranks together.
  // Loss = sum of cross entropies / number of labels of the global batch: each token weighs the
  // same, whatever micro-batch it is in. `state` keeps the guard's memory; step and tokens are the
  // caller's. The parameters are left alone, and the step is counted as skipped, when the loss or
  // the gradient is not finite, or the loss is over loss_spike_factor times its running mean.
  StepResult run(const std::vector<data::Batch>& micro_batches, double lr, TrainerState& state);

 private:
  void sum_over_ranks(StepResult& result) const;
  struct Losses {
    at::Tensor task, aux;  // to minimise
    at::Tensor told;       // the cross entropy, without label smoothing
    at::Tensor hidden_TD;
  };
  Losses forward(const model::BatchTensors& tensors, int64_t num_labels);
  ops::Distillation distill(const model::BatchTensors& tensors, const at::Tensor& hidden_TD) const;
  double backward(const data::Batch& batch, int64_t num_labels, double weight, int64_t step,
                  StepResult& result);
  std::string guard(const StepResult& result, const TrainerState& state) const;
  void end_router_step(bool updated);

  model::Transformer& transformer_;
  Optimizer& optimizer_;
  TrainConfig config_;
  at::Device device_;
  GradientReducer reducer_;
  ExtraPasses* extra_ = nullptr;
  std::shared_ptr<model::Transformer> teacher_;  // null: none
  double label_share_ = 1;
  double own_weight_ = 1;  // of the own loss, in this step
};

// The parameters of a module by name, in its order.
NamedTensors named_parameters(const torch::nn::Module& module);

}  // namespace locus::train
