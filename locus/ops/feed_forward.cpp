#include "locus/ops/feed_forward.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <optional>

#include "locus/base/error.h"
#include "locus/ops/feed_forward_paths.h"
#include "locus/ops/products.h"

namespace locus::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;
// The way a custom function takes a tensor that may be undefined: as a plain one autograd refuses
// it.
using OptionalTensor = std::optional<at::Tensor>;

bool runs_on_cpu_kernels(const at::Tensor& x_ND, const FeedForwardWeights& weights) {
  return has_cpu_kernels(x_ND) && has_cpu_kernels(weights.up_EUD) &&
         weights.up_EUD.is_contiguous() && weights.down_EDF.is_contiguous();
}

class GroupedFeedForward : public torch::autograd::Function<GroupedFeedForward> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x_ND, const at::Tensor& up_EUD,
                            const OptionalTensor& up_bias, const at::Tensor& down_EDF,
                            const OptionalTensor& down_bias, const std::vector<int64_t>& counts_E,
                            int64_t activation_code) {
    const FeedForwardWeights weights{up_EUD, *up_bias, down_EDF, *down_bias};
    const auto run = runs_on_cpu_kernels(x_ND, weights) ? feed_forward_cpu : feed_forward_aten;
    const FeedForwardResult result =
        run(x_ND, counts_E, weights, static_cast<Activation>(activation_code));
    ctx->save_for_backward({x_ND, result.up_NU, up_EUD, down_EDF, *up_bias, *down_bias});
    ctx->saved_data["counts"] = counts_E;
    ctx->saved_data["activation"] = activation_code;
    return result.y_ND;
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const auto saved = ctx->get_saved_variables();
    const FeedForwardWeights weights{saved[2], saved[4], saved[3], saved[5]};
    const auto run = runs_on_cpu_kernels(saved[0], weights) ? feed_forward_backward_cpu
                                                            : feed_forward_backward_aten;
    const FeedForwardGradients d =
        run(grads[0].contiguous(), saved[0], saved[1], ctx->saved_data["counts"].toIntVector(),
            weights, static_cast<Activation>(ctx->saved_data["activation"].toInt()));
    return {d.x_ND, d.up_EUD, d.up_bias_EU, d.down_EDF, d.down_bias_ED, {}, {}};
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

at::Tensor grouped_feed_forward(const at::Tensor& x_ND, const std::vector<int64_t>& counts_E,
                                const FeedForwardWeights& weights, Activation activation) {
  return GroupedFeedForward::apply(
      x_ND.contiguous(), weights.up_EUD, OptionalTensor(weights.up_bias_EU), weights.down_EDF,
      OptionalTensor(weights.down_bias_ED), counts_E, static_cast<int64_t>(activation));
}

}  // namespace locus::ops
