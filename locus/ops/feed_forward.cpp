#include "locus/ops/feed_forward.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <numeric>
#include <optional>

#include "locus/base/error.h"
#include "locus/ops/feed_forward_paths.h"
#include "locus/ops/input_probe.h"
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

void check_shapes(const at::Tensor& x_ND, const std::vector<int64_t>& counts_E,
                  const FeedForwardWeights& w, Activation activation) {
  const int64_t num_groups = w.up_EUD.size(0);
  const int64_t hidden = x_ND.size(1);
  const int64_t rows = up_rows(activation, w.down_EDF.size(2));
  const std::vector<int64_t> up{num_groups, rows, hidden};
  const std::vector<int64_t> down{num_groups, hidden, w.down_EDF.size(2)};
  LOCUS_CHECK(w.up_EUD.sizes() == up && w.down_EDF.sizes() == down, "weights do not fit rows of {}",
              hidden);
  LOCUS_CHECK(!w.up_bias_EU.defined() || w.up_bias_EU.numel() == num_groups * rows,
              "an up bias of {}", w.up_bias_EU.numel());
  LOCUS_CHECK(!w.down_bias_ED.defined() || w.down_bias_ED.numel() == num_groups * hidden,
              "a down bias of {}", w.down_bias_ED.numel());
  const int64_t sum = std::accumulate(counts_E.begin(), counts_E.end(), int64_t{0});
  LOCUS_CHECK(static_cast<int64_t>(counts_E.size()) == num_groups && sum == x_ND.size(0),
              "{} counts of together {} for {} groups and {} rows", counts_E.size(), sum,
              num_groups, x_ND.size(0));
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
    if (InputProbe::looks_at(down_EDF)) {
      InputProbe::show(down_EDF,
                       apply_activation(result.up_NU, static_cast<Activation>(activation_code)));
    }
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
  check_shapes(x_ND, counts_E, weights, activation);
  return GroupedFeedForward::apply(
      x_ND.contiguous(), weights.up_EUD, OptionalTensor(weights.up_bias_EU), weights.down_EDF,
      OptionalTensor(weights.down_bias_ED), counts_E, static_cast<int64_t>(activation));
}

}  // namespace locus::ops
