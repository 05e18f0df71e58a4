#include "locus/nn/recompute.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

namespace locus::nn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;
using Compute = std::function<std::vector<at::Tensor>(const at::Tensor&, bool)>;

struct Closure : torch::CustomClassHolder {
  explicit Closure(Compute function) : compute(std::move(function)) {}
  Compute compute;
};

class Recompute : public torch::autograd::Function<Recompute> {
 public:
  static tensor_list forward(AutogradContext* ctx, const at::Tensor& x, Compute compute) {
    tensor_list out = compute(x, false);
    ctx->save_for_backward({x});
    ctx->saved_data["closure"] =
        c10::IValue::make_capsule(c10::make_intrusive<Closure>(std::move(compute)));
    return out;
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const auto closure =
        c10::static_intrusive_pointer_cast<Closure>(ctx->saved_data["closure"].toCapsule());
    const at::Tensor x = ctx->get_saved_variables()[0].detach().requires_grad_(true);
    tensor_list out;
    {
      const at::AutoGradMode enable(true);
      out = closure->compute(x, true);
    }
    tensor_list roots;
    tensor_list root_grads;
    for (size_t i = 0; i < out.size(); ++i) {
      if (!out[i].requires_grad() || !grads[i].defined()) continue;
      roots.push_back(out[i]);
      root_grads.push_back(grads[i]);
    }
    torch::autograd::backward(roots, root_grads);  // parameters collect their gradients here
    return {x.grad(), {}};
  }
};

}  // namespace

std::vector<at::Tensor> recompute(
    const at::Tensor& x,
    std::function<std::vector<at::Tensor>(const at::Tensor& x, bool is_replay)> compute) {
  return Recompute::apply(x, std::move(compute));
}

}  // namespace locus::nn
