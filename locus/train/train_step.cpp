#include "locus/train/train_step.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <csignal>
#include <utility>

#include "locus/base/error.h"
#include "locus/base/format.h"
#include "locus/base/signals.h"
#include "locus/base/timeline.h"
#include "locus/comm/activity.h"
#include "locus/comm/collectives.h"
#include "locus/comm/watched.h"
#include "locus/model/batch_tensors.h"
#include "locus/ops/cross_entropy.h"

namespace locus::train {
namespace {

// The guard compares with a mean over about this many steps, once it has seen a tenth of them.
constexpr double kLossMeanSteps = 100;
constexpr int64_t kGuardWarmupSteps = 10;

class Stopwatch {
 public:
  // Seconds since the last lap, or since construction.
  double lap() {
    const auto now = std::chrono::steady_clock::now();
    const double seconds = std::chrono::duration<double>(now - last_).count();
    last_ = now;
    return seconds;
  }

 private:
  std::chrono::steady_clock::time_point last_ = std::chrono::steady_clock::now();
};

int64_t count_labels(const std::vector<data::Batch>& batches) {
  int64_t count = 0;
  for (const data::Batch& batch : batches) {
    count += std::count_if(batch.labels.begin(), batch.labels.end(),
                           [](int32_t label) { return label >= 0; });
  }
  return count;
}

}  // namespace

NamedTensors named_parameters(const torch::nn::Module& module) {
  NamedTensors out;
  for (const auto& item : module.named_parameters()) out.emplace_back(item.key(), item.value());
  return out;
}

TrainStep::TrainStep(model::Transformer& transformer, Optimizer& optimizer,
                     const TrainConfig& config, at::Device device)
    : transformer_(transformer),
      optimizer_(optimizer),
      config_(config),
      device_(device),
      reducer_(optimizer.parts()) {
  const comm::ParallelContext& parallel = transformer.config().parallel;
  for (const ParameterPart& part : optimizer.parts()) {
    const bool is_whole = part.group == nullptr || !parallel.use_distributed_optimizer;
    LOCUS_CHECK(part.group == (part.is_expert ? parallel.edp : parallel.world) &&
                    part.is_whole() == is_whole,
                "the optimiser was made for other ranks than the model");
  }
}

StepResult TrainStep::run(const std::vector<data::Batch>& micro_batches, double lr,
                          TrainerState& state) {
  StepResult result;
  const comm::ParallelContext& parallel = transformer_.config().parallel;
  comm::note_phase(parallel.activity, "forward");
  result.num_labels =
      comm::sum_over(parallel.world.get(), at::full({1}, count_labels(micro_batches), at::kLong))
          .item<int64_t>();
  transformer_.train();
  for (const auto& [layer, moe] : transformer_.moe_layers())
    moe->router().on_step(state.step, config_.max_steps);
  own_weight_ = extra_ != nullptr ? extra_->begin_step(state.step) : 1.0;
  const bool has_extra = own_weight_ != 1.0;
  for (const data::Batch& batch : micro_batches) {
    // Gradients set off as they come, unless more are added to them.
    if (&batch == &micro_batches.back() && !has_extra) reducer_.start();
    const double weight = 1.0 / static_cast<double>(micro_batches.size());
    result.loss += backward(batch, result.num_labels, weight, state.step, result);
  }
  if (has_extra) {
    extra_->add_gradients();
    reducer_.start();
  }
  Stopwatch watch;
  {
    const Span span("sum gradients", "wait");
    comm::note_phase(parallel.activity, "reduce");
    reducer_.finish();
    sum_over_ranks(result);
  }
  result.reduce_s = watch.lap();
  if (extra_ != nullptr) extra_->see_gradients();
  result.grad_norm = gradient_norm(optimizer_.parts(), parallel);
  result.skipped = guard(result, state);
  comm::note_phase(parallel.activity, "optimizer step");
  if (result.skipped.empty()) {
    const bool clip = config_.clip_grad > 0 && result.grad_norm > config_.clip_grad;
    {
      const Span span("optimizer", "compute");
      optimizer_.step(lr, clip ? result.grad_norm / config_.clip_grad : 1.0);
    }
    result.optimizer_s += watch.lap();
    if (parallel.use_distributed_optimizer) {
      const Span span("gather parameters", "wait");
      reducer_.gather_parameters();
      result.reduce_s += watch.lap();
    }
    state.skipped_in_row = 0;
    const double share =
        std::max(1.0 / static_cast<double>(++state.loss_mean_steps), 1.0 / kLossMeanSteps);
    state.loss_mean += share * (result.loss - state.loss_mean);
  } else {
    ++state.skipped_steps;
    ++state.skipped_in_row;
  }
  end_router_step(result.skipped.empty());
  for (const ParameterPart& part : optimizer_.parts()) {
    part.parameter.mutable_grad().reset();
    part.value.mutable_grad().reset();
  }
  result.optimizer_s += watch.lap();
  return result;
}

// Each rank has computed its part of both losses. Ranks that have made different calls so far end
// here.
void TrainStep::sum_over_ranks(StepResult& result) const {
  result.signal = received_signal();
  const comm::ParallelContext& parallel = transformer_.config().parallel;
  if (parallel.is_alone()) return;
  // Signals travel along: whoever got one, all stop after the same step, of several the last one in
  // this list.
  constexpr int kSignals[] = {SIGHUP, SIGINT, SIGTERM};
  std::vector<double> values{comm::call_balance(parallel), result.loss, result.aux_loss};
  for (const int signal : kSignals) values.push_back(result.signal == signal ? 1.0 : 0.0);
  const at::Tensor sum = comm::sum_over(parallel.world.get(), at::tensor(values, at::kDouble));
  const double* value = sum.const_data_ptr<double>();
  comm::check_call_balance(parallel, *value++);
  result.loss = *value++;
  result.aux_loss = *value++;
  for (const int signal : kSignals) {
    if (*value++ > 0) result.signal = signal;
  }
}

void TrainStep::set_teacher(std::shared_ptr<model::Transformer> teacher, double label_share) {
  teacher_ = std::move(teacher);
  label_share_ = label_share;
}

ops::Distillation TrainStep::distill(const model::BatchTensors& tensors,
                                     const at::Tensor& hidden_TD) const {
  at::Tensor teacher_hidden_TD;
  {
    const at::NoGradGuard no_grad;
    teacher_hidden_TD = teacher_->forward(tensors.input).hidden_TD;
  }
  return ops::linear_distillation(hidden_TD, transformer_.output_weight(), tensors.labels_T,
                                  teacher_hidden_TD, teacher_->output_weight(), label_share_);
}

TrainStep::Losses TrainStep::forward(const model::BatchTensors& tensors, int64_t num_labels) {
  const Span span("forward", "compute");
  comm::note_phase(transformer_.config().parallel.activity, "forward");
  const model::TransformerOutput out = transformer_.forward(tensors.input);
  const auto count = static_cast<double>(std::max<int64_t>(num_labels, 1));
  if (teacher_) {
    const ops::Distillation losses = distill(tensors, out.hidden_TD);
    return {losses.loss_sum / count, out.aux_loss, losses.cross_entropy_sum / count,
            out.hidden_TD.detach()};
  }
  const ops::CrossEntropy entropy =
      ops::linear_cross_entropy(out.hidden_TD, transformer_.output_weight(), tensors.labels_T,
                                /*want_correct=*/false, config_.label_smoothing);
  const at::Tensor task = entropy.loss_sum / count;
  const bool is_smoothed = config_.label_smoothing > 0;
  return {task, out.aux_loss, is_smoothed ? entropy.loss_T.sum(at::kDouble) / count : task,
          out.hidden_TD.detach()};
}

double TrainStep::backward(const data::Batch& batch, int64_t num_labels, double weight,
                           int64_t step, StepResult& result) {
  Stopwatch watch;
  model::check_ids(batch, transformer_.config().model.vocab_size);
  const model::BatchTensors tensors = model::to_tensors(batch, device_, step);
  const auto [task_loss, aux_loss, told_loss, hidden_TD] = forward(tensors, num_labels);
  at::Tensor loss = task_loss + aux_loss * weight;
  if (own_weight_ != 1.0) loss = loss * own_weight_;
  result.forward_s += watch.lap();
  const Span span("backward", "compute");
  comm::note_phase(transformer_.config().parallel.activity, "backward");
  loss.backward();
  // Read only now: reading waits for the device.
  const double value = told_loss.item<double>();
  result.aux_loss += aux_loss.item<double>() * weight;
  if (own_weight_ != 1.0) {
    const Span extra("smaller models", "compute");
    extra_->run(
        {tensors, hidden_TD, static_cast<double>(std::max<int64_t>(num_labels, 1)), weight});
  }
  result.backward_s += watch.lap();
  return value;
}

std::string TrainStep::guard(const StepResult& result, const TrainerState& state) const {
  if (!std::isfinite(result.loss)) return format("the loss is {}", result.loss);
  if (!std::isfinite(result.aux_loss)) return format("the router loss is {}", result.aux_loss);
  if (!std::isfinite(result.grad_norm))
    return format("the gradient's norm is {}", result.grad_norm);
  if (config_.loss_spike_factor > 0 && state.loss_mean_steps >= kGuardWarmupSteps &&
      result.loss > config_.loss_spike_factor * state.loss_mean) {
    return format("the loss {:.4f} is over {} times its running mean {:.4f}", result.loss,
                  config_.loss_spike_factor, state.loss_mean);
  }
  return "";
}

// The loads of all layers travel together.
void TrainStep::end_router_step(bool updated) {
  std::vector<moe::Router*> routers;
  std::vector<at::Tensor> requested;
  for (const auto& [layer, moe] : transformer_.moe_layers()) {
    const at::Tensor requested_E = std::exchange(moe->router().requested_E, at::Tensor());
    if (!updated || !requested_E.defined()) continue;
    routers.push_back(&moe->router());
    requested.push_back(requested_E);
  }
  if (routers.empty()) return;
  const at::Tensor sum =
      comm::sum_over(transformer_.config().parallel.world.get(), at::cat(requested));
  int64_t begin = 0;
  for (size_t i = 0; i < routers.size(); ++i) {
    const int64_t num_experts = requested[i].size(0);
    routers[i]->on_step_end(sum.narrow(0, begin, num_experts));
    begin += num_experts;
  }
}

}  // namespace locus::train
