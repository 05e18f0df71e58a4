#include "locus/nn/recompute.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include "locus/base/error.h"

namespace locus::nn {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

struct Closure : torch::CustomClassHolder {
  explicit Closure(Recomputed function) : compute(std::move(function)) {}
  Recomputed compute;
};

class Recompute : public torch::autograd::Function<Recompute> {
 public:
  // libtorch sees inputs that are arguments, not those in a list; `y` empty: there is one.
  static tensor_list forward(AutogradContext* ctx, const at::Tensor& x, const at::Tensor& y,
                             Recomputed compute) {
    const tensor_list inputs = y.numel() > 0 ? tensor_list{x, y} : tensor_list{x};
    tensor_list out = compute(inputs, false);
    ctx->save_for_backward(inputs);
    ctx->saved_data["closure"] =
        c10::IValue::make_capsule(c10::make_intrusive<Closure>(std::move(compute)));
    return out;
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const auto closure =
        c10::static_intrusive_pointer_cast<Closure>(ctx->saved_data["closure"].toCapsule());
    tensor_list inputs;
    for (const at::Tensor& input : ctx->get_saved_variables()) {
      inputs.push_back(input.detach().requires_grad_(true));
    }
    tensor_list out;
    {
      const at::AutoGradMode enable(true);
      out = closure->compute(inputs, true);
    }
    tensor_list roots;
    tensor_list root_grads;
    for (size_t i = 0; i < out.size(); ++i) {
      if (!out[i].requires_grad() || !grads[i].defined()) continue;
      roots.push_back(out[i]);
      root_grads.push_back(grads[i]);
    }
    torch::autograd::backward(roots, root_grads);  // parameters collect their gradients here
    tensor_list input_grads;
    for (const at::Tensor& input : inputs) input_grads.push_back(input.grad());
    input_grads.resize(3);  // the closure has none, nor has what is not there
    return input_grads;
  }
};

}  // namespace

std::vector<at::Tensor> recompute(const std::vector<at::Tensor>& inputs, Recomputed compute) {
  LOCUS_CHECK(inputs.size() == 1 || inputs.size() == 2, "{} inputs to compute from again",
              inputs.size());
  return Recompute::apply(inputs[0], inputs.size() > 1 ? inputs[1] : at::empty({0}),
                          std::move(compute));
}

}  // namespace locus::nn
