#include "locus/ops/group_sums.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "locus/base/error.h"
#include "locus/ops/products.h"

namespace locus::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

class GroupSums : public torch::autograd::Function<GroupSums> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x_TD, int64_t num_groups) {
    const int64_t num_channels = x_TD.size(1);
    const cpu::Type type = cpu_type(x_TD);
    const at::Tensor sum_TG =
        at::empty({x_TD.size(0), num_groups}, x_TD.options().dtype(at::kFloat));
    auto* sums = sum_TG.mutable_data_ptr<float>();
    parallel_rows(x_TD.size(0), num_channels, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        cpu::kernels().group_sums(type, row_address(x_TD, t), num_channels, num_groups,
                                  sums + t * num_groups);
      }
    });
    ctx->saved_data["num_channels"] = num_channels;
    ctx->saved_data["type"] = static_cast<int64_t>(x_TD.scalar_type());
    return sum_TG;
  }

  // Each channel's gradient is that of its group.
  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    LOCUS_CHECK(!at::GradMode::is_enabled(), "sums of groups have no second derivative here");
    const int64_t num_channels = ctx->saved_data["num_channels"].toInt();
    const auto scalar_type = static_cast<at::ScalarType>(ctx->saved_data["type"].toInt());
    const at::Tensor dsum_TG = grads[0].contiguous();
    const at::Tensor dx_TD =
        at::empty({dsum_TG.size(0), num_channels}, dsum_TG.options().dtype(scalar_type));
    const int64_t num_groups = dsum_TG.size(1);
    const auto* dsums = dsum_TG.const_data_ptr<float>();
    const cpu::Type type = cpu_type(dx_TD);
    parallel_rows(dsum_TG.size(0), num_channels, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        cpu::kernels().spread_groups(type, dsums + t * num_groups, num_channels, num_groups,
                                     mutable_row_address(dx_TD, t));
      }
    });
    return {dx_TD, {}};
  }
};

}  // namespace

at::Tensor group_sizes(int64_t num_channels, int64_t num_groups) {
  LOCUS_CHECK(num_groups >= 1 && num_groups <= num_channels, "{} groups of {} channels", num_groups,
              num_channels);
  at::Tensor size_G = at::full({num_groups}, num_channels / num_groups, at::kFloat);
  size_G.slice(0, 0, num_channels % num_groups) += 1;
  return size_G;
}

at::Tensor group_sums(const at::Tensor& x_TD, int64_t num_groups) {
  if (has_cpu_kernels(x_TD)) {
    return GroupSums::apply(x_TD.stride(1) == 1 ? x_TD : x_TD.contiguous(), num_groups);
  }
  const at::Tensor x = x_TD.scalar_type() == at::kDouble ? x_TD : x_TD.to(at::kFloat);
  const at::Tensor size_G = group_sizes(x.size(1), num_groups).to(at::kLong);
  const at::Tensor group_D = at::repeat_interleave(size_G).to(x.device());
  return at::zeros({x.size(0), num_groups}, x.options()).index_add(1, group_D, x);
}

}  // namespace locus::ops
