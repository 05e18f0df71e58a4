// AdamW (Loshchilov and Hutter, 2019) through libtorch's fused kernel: weights and both moments are
// read and written once. The counter of updates belongs to each parameter, so that a parameter that
// joins later (a spawned expert) starts with its own bias correction.

#include <ATen/ATen.h>

#include "locus/train/optimizer.h"

namespace locus::train {
namespace {

class AdamW : public Optimizer {
 public:
  AdamW(const OptimizerConfig& config, ParameterParts parts)
      : Optimizer(std::move(parts)), config_(config) {
    for (const ParameterPart& part : this->parts()) {
      slots_.push_back(
          {at::zeros_like(part.value), at::zeros_like(part.value),
           at::zeros({}, part.value.options().dtype(at::kFloat).requires_grad(false))});
    }
  }

  void step(double lr, double grad_scale) override {
    const at::NoGradGuard no_grad;
    update(lr, grad_scale, /*decay=*/true);
    update(lr, grad_scale, /*decay=*/false);
  }

  NamedTensors state() override {
    NamedTensors out;
    for (size_t i = 0; i < slots_.size(); ++i) {
      const std::string& name = parts()[i].name;
      out.emplace_back("exp_avg." + name, slots_[i].exp_avg);
      out.emplace_back("exp_avg_sq." + name, slots_[i].exp_avg_sq);
      out.emplace_back("step." + name, slots_[i].step);
    }
    return out;
  }

 private:
  struct Slot {
    at::Tensor exp_avg, exp_avg_sq, step;
  };

  void update(double lr, double grad_scale, bool decay) {
    std::vector<at::Tensor> parameters, gradients, exp_avgs, exp_avg_sqs, steps;
    for (size_t i = 0; i < slots_.size(); ++i) {
      const ParameterPart& part = parts()[i];
      const Slot& slot = slots_[i];
      if (part.has_decay != decay || !part.value.grad().defined()) continue;
      parameters.push_back(part.value);
      gradients.push_back(part.value.grad());
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
  std::vector<Slot> slots_;  // one for each part
};

}  // namespace

std::unique_ptr<Optimizer> make_adamw(const OptimizerConfig& config, ParameterParts parts) {
  return std::make_unique<AdamW>(config, std::move(parts));
}

}  // namespace locus::train
