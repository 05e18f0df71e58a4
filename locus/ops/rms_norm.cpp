#include "locus/ops/rms_norm.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "locus/base/error.h"
#include "locus/ops/products.h"

namespace locus::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

class RmsNorm : public torch::autograd::Function<RmsNorm> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x_TN,
                            const at::Tensor& weight_N, double eps) {
    const at::Tensor out_TN = at::empty(x_TN.sizes(), x_TN.options());
    const at::Tensor inverse_T = at::empty({x_TN.size(0)}, x_TN.options().dtype(at::kFloat));
    const int64_t size = x_TN.size(1);
    const cpu::Type type = cpu_type(x_TN);
    const auto* weight = weight_N.const_data_ptr<float>();
    auto* inverse = inverse_T.mutable_data_ptr<float>();
    parallel_rows(x_TN.size(0), size, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        inverse[t] =
            cpu::kernels().rms_norm(type, row_address(x_TN, t), weight, size,
                                    static_cast<float>(eps), mutable_row_address(out_TN, t));
      }
    });
    ctx->save_for_backward({x_TN, weight_N, inverse_T});
    return out_TN;
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    LOCUS_CHECK(!at::GradMode::is_enabled(), "RMSNorm has no second derivative");
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &x_TN = saved[0], &weight_N = saved[1];
    const auto* inverse = saved[2].const_data_ptr<float>();
    const auto* weight = weight_N.const_data_ptr<float>();
    const at::Tensor dout_TN = grads[0].contiguous();
    const at::Tensor dx_TN = at::empty(x_TN.sizes(), x_TN.options());
    const int64_t rows = x_TN.size(0);
    const int64_t size = x_TN.size(1);
    const cpu::Type type = cpu_type(x_TN);
    // The weight's gradient as sums over fixed ranges of rows: the same for every number of
    // threads.
    constexpr int64_t kRange = 64;
    const int64_t ranges = (rows + kRange - 1) / kRange;
    const at::Tensor dweight_RN = at::zeros({ranges, size}, weight_N.options());
    auto* dweight = dweight_RN.mutable_data_ptr<float>();
    parallel_rows(ranges, kRange * size, [&](int64_t begin, int64_t end) {
      for (int64_t range = begin; range < end; ++range) {
        for (int64_t t = range * kRange; t < std::min(rows, (range + 1) * kRange); ++t) {
          cpu::kernels().rms_norm_backward(type, row_address(dout_TN, t), row_address(x_TN, t),
                                           weight, inverse[t], size, mutable_row_address(dx_TN, t),
                                           dweight + range * size);
        }
      }
    });
    return {dx_TN, dweight_RN.sum(0), {}};
  }
};

}  // namespace

at::Tensor rms_norm(const at::Tensor& x, const at::Tensor& weight_N, double eps) {
  LOCUS_CHECK(weight_N.dim() == 1 && weight_N.size(0) == x.size(-1), "{} weights for rows of {}",
              weight_N.numel(), x.size(-1));
  if (!has_cpu_kernels(x) || weight_N.scalar_type() != at::kFloat) {
    return at::rms_norm(x, weight_N.sizes(), weight_N.to(x.dtype()), eps);
  }
  at::Tensor x_TN = x.reshape({-1, x.size(-1)});  // a view of rows at equal distances stays one
  if (x_TN.stride(1) != 1) x_TN = x_TN.contiguous();
  return RmsNorm::apply(x_TN, weight_N.contiguous(), eps).view(x.sizes());
}

}  // namespace locus::ops
