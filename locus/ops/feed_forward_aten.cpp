// The grouped feed-forward network in libtorch's operations: every device, every floating type.
#include <ATen/ATen.h>

#include "locus/ops/feed_forward_paths.h"
#include "locus/ops/grouped_mm.h"

namespace locus::ops {
namespace {

std::string_view gelu_approximation(Activation activation) {
  return activation == Activation::kGeluTanh ? "tanh" : "none";
}

// d(activation)/d(up) * da, [N, U].
at::Tensor activation_backward(const at::Tensor& da_NF, const at::Tensor& up_NU,
                               Activation activation) {
  if (activation != Activation::kSwiglu) {
    return at::gelu_backward(da_NF, up_NU, gelu_approximation(activation));
  }
  const int64_t width = up_NU.size(1) / 2;
  const at::Tensor gate = up_NU.narrow(1, 0, width);
  const at::Tensor up = up_NU.narrow(1, width, width);
  const at::Tensor d_NU = at::empty_like(up_NU);
  at::Tensor dgate = d_NU.narrow(1, 0, width);
  at::Tensor dup = d_NU.narrow(1, width, width);
  at::mul_out(dup, da_NF, at::silu(gate));
  at::silu_backward_out(dgate, da_NF * up, gate);
  return d_NU;
}

// Adds bias[e] to the rows of group e, in place.
void add_group_bias(const at::Tensor& rows, const at::Tensor& bias_EM,
                    const std::vector<int64_t>& counts_E) {
  if (!bias_EM.defined()) return;
  int64_t row = 0;
  for (size_t e = 0; e < counts_E.size(); ++e) {
    if (counts_E[e] > 0) {
      rows.narrow(0, row, counts_E[e])
          .add_(bias_EM.select(0, static_cast<int64_t>(e)).to(rows.dtype()));
    }
    row += counts_E[e];
  }
}

}  // namespace

at::Tensor group_bias_gradient(const at::Tensor& d_NM, const at::Tensor& bias_EM,
                               const std::vector<int64_t>& counts_E) {
  if (!bias_EM.defined()) return {};
  const at::Tensor out = at::zeros_like(bias_EM);
  int64_t row = 0;
  for (size_t e = 0; e < counts_E.size(); ++e) {
    if (counts_E[e] > 0) {
      out.select(0, static_cast<int64_t>(e))
          .copy_(d_NM.narrow(0, row, counts_E[e]).sum(0, false, bias_EM.scalar_type()));
    }
    row += counts_E[e];
  }
  return out;
}

at::Tensor apply_activation(const at::Tensor& up_NU, Activation activation) {
  if (activation != Activation::kSwiglu) return at::gelu(up_NU, gelu_approximation(activation));
  const int64_t width = up_NU.size(1) / 2;
  return at::silu(up_NU.narrow(1, 0, width)).mul_(up_NU.narrow(1, width, width));
}

FeedForwardResult feed_forward_aten(const at::Tensor& x_ND, const std::vector<int64_t>& counts_E,
                                    const FeedForwardWeights& weights, Activation activation) {
  const at::Tensor up_EUD = weights.up_EUD.to(x_ND.dtype());
  const at::Tensor down_EDF = weights.down_EDF.to(x_ND.dtype());
  const at::Tensor up_NU = grouped_mm(x_ND, up_EUD.transpose(1, 2), counts_E);
  add_group_bias(up_NU, weights.up_bias_EU, counts_E);
  const at::Tensor y_ND =
      grouped_mm(apply_activation(up_NU, activation), down_EDF.transpose(1, 2), counts_E);
  add_group_bias(y_ND, weights.down_bias_ED, counts_E);
  return {y_ND, up_NU};
}

FeedForwardGradients feed_forward_backward_aten(const at::Tensor& dy_ND, const at::Tensor& x_ND,
                                                const at::Tensor& up_NU,
                                                const std::vector<int64_t>& counts_E,
                                                const FeedForwardWeights& weights,
                                                Activation activation) {
  // Cast once more rather than kept: casting costs less than the memory.
  const at::Tensor up_EUD = weights.up_EUD.to(x_ND.dtype());
  const at::Tensor down_EDF = weights.down_EDF.to(x_ND.dtype());
  const at::ScalarType weight_type = weights.up_EUD.scalar_type();
  FeedForwardGradients d;
  d.down_EDF = grouped_outer(dy_ND, apply_activation(up_NU, activation), counts_E, weight_type);
  const at::Tensor dup_NU =
      activation_backward(grouped_mm(dy_ND, down_EDF, counts_E), up_NU, activation);
  d.up_EUD = grouped_outer(dup_NU, x_ND, counts_E, weight_type);
  d.x_ND = grouped_mm(dup_NU, up_EUD, counts_E);
  d.up_bias_EU = group_bias_gradient(dup_NU, weights.up_bias_EU, counts_E);
  d.down_bias_ED = group_bias_gradient(dy_ND, weights.down_bias_ED, counts_E);
  return d;
}

}  // namespace locus::ops
