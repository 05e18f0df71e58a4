#include "locus/ops/linear.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>

#include "locus/base/error.h"
#include "locus/ops/input_probe.h"
#include "locus/ops/products.h"

namespace locus::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

// One product into `out`, [m, n], rounded to its type; bias float32 [n] or undefined.
void run_into(Product product, cpu::Type compute, const at::Tensor& out, const at::Tensor& bias) {
  const std::function<void(const Block&)> finish = [&](const Block& block) {
    cpu::kernels().store(
        block.c, block.c_stride, block.rows, block.columns,
        bias.defined() ? bias.const_data_ptr<float>() + block.column : nullptr, cpu_type(out),
        static_cast<char*>(mutable_row_address(out, block.row)) + block.column * out.element_size(),
        out.stride(0));
  };
  if (out.scalar_type() == at::kFloat && !bias.defined()) {
    product.c = out.mutable_data_ptr<float>();
    product.c_stride = out.stride(0);
  } else {
    product.finish = &finish;
  }
  run_products({product}, compute);
}

class Linear : public torch::autograd::Function<Linear> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x_TK,
                            const at::Tensor& weight_MK, const std::optional<at::Tensor>& bias) {
    const at::Tensor y_TM = at::empty({x_TK.size(0), weight_MK.size(0)}, x_TK.options());
    run_into({.a = matrix(x_TK),
              .b = transposed(weight_MK),
              .m = x_TK.size(0),
              .n = weight_MK.size(0),
              .k = weight_MK.size(1)},
             cpu_type(x_TK), y_TM, bias->defined() ? bias->to(at::kFloat).contiguous() : *bias);
    ctx->save_for_backward({x_TK, weight_MK});
    if (bias->defined()) ctx->saved_data["bias_type"] = bias->scalar_type();
    return y_TM;
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    LOCUS_CHECK(!at::GradMode::is_enabled(), "a linear layer has no second derivative");
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &x_TK = saved[0], &weight_MK = saved[1];
    const at::Tensor dy_TM = grads[0].contiguous();
    const int64_t rows = x_TK.size(0);
    at::Tensor dx, dweight, dbias;
    if (ctx->needs_input_grad(0)) {
      dx = at::empty_like(x_TK);
      run_into({.a = matrix(dy_TM),
                .b = matrix(weight_MK),
                .m = rows,
                .n = weight_MK.size(1),
                .k = weight_MK.size(0)},
               cpu_type(x_TK), dx, {});
    }
    if (ctx->needs_input_grad(1)) {
      dweight = at::empty_like(weight_MK);
      run_into({.a = transposed(dy_TM),
                .b = matrix(x_TK),
                .m = weight_MK.size(0),
                .n = weight_MK.size(1),
                .k = rows},
               cpu_type(x_TK), dweight, {});
    }
    // An undefined bias is no input to ask for.
    if (ctx->saved_data.count("bias_type") > 0 && ctx->needs_input_grad(2)) {
      dbias = dy_TM.sum(0, false, ctx->saved_data["bias_type"].toScalarType());
    }
    return {dx, dweight, dbias};
  }
};

}  // namespace

at::Tensor linear(const at::Tensor& x, const at::Tensor& weight_MK, const at::Tensor& bias_M) {
  LOCUS_CHECK(weight_MK.dim() == 2 && x.size(-1) == weight_MK.size(1), "{} inputs for {}",
              x.size(-1), weight_MK.size(-1));
  LOCUS_CHECK(!bias_M.defined() || bias_M.numel() == weight_MK.size(0), "a bias of {} for {}",
              bias_M.numel(), weight_MK.size(0));
  InputProbe::show(weight_MK, x);
  if (!has_cpu_kernels(x) || !has_cpu_kernels(weight_MK)) {
    return at::linear(x, weight_MK.to(x.dtype()), bias_M.defined() ? bias_M.to(x.dtype()) : bias_M);
  }
  std::vector<int64_t> shape = x.sizes().vec();
  shape.back() = weight_MK.size(0);
  return Linear::apply(x.reshape({-1, x.size(-1)}).contiguous(), weight_MK.contiguous(),
                       std::optional<at::Tensor>(bias_M))
      .view(shape);
}

}  // namespace locus::ops
