// AdamW (Loshchilov and Hutter, 2019) through libtorch's fused kernel: weights and both moments are
// read and written once. The counter of updates belongs to each parameter, so that a parameter that
// joins later (a spawned expert) starts with its own bias correction.

#include <ATen/ATen.h>

#include "locus/train/optimizer.h"

namespace locus::train {
namespace {

class AdamW : public Optimizer {
 public:
  AdamW(const OptimizerConfig& config, const NamedTensors& parameters) : config_(config) {
    for (const auto& [name, parameter] : parameters) {
      slots_.push_back({name, parameter, at::zeros_like(parameter), at::zeros_like(parameter),
                        at::zeros({}, parameter.options().dtype(at::kFloat).requires_grad(false))});
    }
  }

  void step(double lr, double grad_scale) override {
    const at::NoGradGuard no_grad;
    update(lr, grad_scale, /*decay=*/true);
    update(lr, grad_scale, /*decay=*/false);
  }

  NamedTensors state() override {
    NamedTensors out;
    for (const Slot& slot : slots_) {
      out.emplace_back("exp_avg." + slot.name, slot.exp_avg);
      out.emplace_back("exp_avg_sq." + slot.name, slot.exp_avg_sq);
      out.emplace_back("step." + slot.name, slot.step);
    }
    return out;
  }

 private:
  struct Slot {
    std::string name;
    at::Tensor parameter, exp_avg, exp_avg_sq, step;
  };

  void update(double lr, double grad_scale, bool decay) {
    std::vector<at::Tensor> parameters, gradients, exp_avgs, exp_avg_sqs, steps;
    for (Slot& slot : slots_) {
      if (has_weight_decay(slot.name, slot.parameter) != decay || !slot.parameter.grad().defined())
        continue;
      parameters.push_back(slot.parameter);
      gradients.push_back(slot.parameter.grad());
      exp_avgs.push_back(slot.exp_avg);
      exp_avg_sqs.push_back(slot.exp_avg_sq);
      steps.push_back(slot.step);
    }
    if (parameters.empty()) return;
    at::_foreach_add_(steps, 1);
    std::optional<at::Tensor> scale;
    if (grad_scale != 1.0)
      scale = at::full({}, grad_scale, parameters[0].options().dtype(at::kFloat));
    at::_fused_adamw_(parameters, gradients, exp_avgs, exp_avg_sqs, {}, steps, lr,
                      config_.adam_beta1, config_.adam_beta2, decay ? config_.weight_decay : 0.0,
                      config_.adam_eps,
                      /*amsgrad=*/false, /*maximize=*/false, scale);
  }

  OptimizerConfig config_;
  std::vector<Slot> slots_;
};

}  // namespace

std::unique_ptr<Optimizer> make_adamw(const OptimizerConfig& config,
                                      const NamedTensors& parameters) {
  return std::make_unique<AdamW>(config, parameters);
}

}  // namespace locus::train
