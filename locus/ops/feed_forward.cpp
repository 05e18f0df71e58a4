#include "locus/ops/feed_forward.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>

#include "locus/base/error.h"
#include "locus/ops/grouped_mm.h"

namespace locus::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;
// The way a custom function takes a tensor that may be undefined: as a plain one autograd refuses
// it.
using OptionalTensor = std::optional<at::Tensor>;

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

class GroupedFeedForward : public torch::autograd::Function<GroupedFeedForward> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x_ND, const at::Tensor& up_EUD,
                            const OptionalTensor& up_bias, const at::Tensor& down_EDF,
                            const OptionalTensor& down_bias, const std::vector<int64_t>& counts_E,
                            int64_t activation_code) {
    const auto activation = static_cast<Activation>(activation_code);
    const at::Tensor& up_bias_EU = *up_bias;
    const at::Tensor& down_bias_ED = *down_bias;
    const at::Tensor low_up_EUD = up_EUD.to(x_ND.dtype());
    const at::Tensor low_down_EDF = down_EDF.to(x_ND.dtype());
    const at::Tensor up_NU = grouped_mm(x_ND, low_up_EUD.transpose(1, 2), counts_E);
    add_group_bias(up_NU, up_bias_EU, counts_E);
    const at::Tensor y_ND =
        grouped_mm(apply_activation(up_NU, activation), low_down_EDF.transpose(1, 2), counts_E);
    add_group_bias(y_ND, down_bias_ED, counts_E);
    // The weights themselves, not their copies in the type of x: casting again costs less memory.
    ctx->save_for_backward({x_ND, up_NU, up_EUD, down_EDF, up_bias_EU, down_bias_ED});
    ctx->saved_data["counts"] = counts_E;
    ctx->saved_data["activation"] = activation_code;

    return y_ND;
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &x_ND = saved[0], &up_NU = saved[1];
    const at::Tensor up_EUD = saved[2].to(x_ND.dtype());
    const at::Tensor down_EDF = saved[3].to(x_ND.dtype());
    const auto counts_E = ctx->saved_data["counts"].toIntVector();
    const auto activation = static_cast<Activation>(ctx->saved_data["activation"].toInt());
    const at::ScalarType weight_type = saved[2].scalar_type();
    const at::Tensor dy_ND = grads[0].contiguous();

    const at::Tensor ddown_EDF =
        grouped_outer(dy_ND, apply_activation(up_NU, activation), counts_E, weight_type);
    const at::Tensor dup_NU =
        activation_backward(grouped_mm(dy_ND, down_EDF, counts_E), up_NU, activation);
    const at::Tensor dup_EUD = grouped_outer(dup_NU, x_ND, counts_E, weight_type);
    const at::Tensor dx_ND = grouped_mm(dup_NU, up_EUD, counts_E);
    return {dx_ND,
            dup_EUD,
            group_bias_gradient(dup_NU, saved[4], counts_E),
            ddown_EDF,
            group_bias_gradient(dy_ND, saved[5], counts_E),
            {},
            {}};
  }
};

}  // namespace

Activation parse_activation(std::string_view name) {
  if (name == "swiglu") return Activation::kSwiglu;
  if (name == "gelu") return Activation::kGelu;
  if (name == "gelu_new") return Activation::kGeluTanh;
  throw ConfigError("hidden_act = \"{}\" is not an activation; known: swiglu, gelu, gelu_new",
                    name);
}

int64_t up_rows(Activation activation, int64_t intermediate_size) {
  return activation == Activation::kSwiglu ? 2 * intermediate_size : intermediate_size;
}

at::Tensor apply_activation(const at::Tensor& up_NU, Activation activation) {
  if (activation != Activation::kSwiglu) return at::gelu(up_NU, gelu_approximation(activation));
  const int64_t width = up_NU.size(1) / 2;
  return at::silu(up_NU.narrow(1, 0, width)).mul_(up_NU.narrow(1, width, width));
}

at::Tensor grouped_feed_forward(const at::Tensor& x_ND, const std::vector<int64_t>& counts_E,
                                const FeedForwardWeights& weights, Activation activation) {
  return GroupedFeedForward::apply(
      x_ND.contiguous(), weights.up_EUD, OptionalTensor(weights.up_bias_EU), weights.down_EDF,
      OptionalTensor(weights.down_bias_ED), counts_E, static_cast<int64_t>(activation));
}

}  // namespace locus::ops
