#include "locus/nn/feed_forward.h"

#include <ATen/ATen.h>

namespace locus::nn {

FeedForward::FeedForward(int64_t hidden_size, int64_t intermediate_size, ops::Activation activation,
                         bool with_bias)
    : activation_(activation) {
  const int64_t rows = ops::up_rows(activation, intermediate_size);
  up_UD_ = register_parameter("up_proj", at::empty({rows, hidden_size}));
  down_DF_ = register_parameter("down_proj", at::empty({hidden_size, intermediate_size}));
  if (with_bias) {
    up_bias_U_ = register_parameter("up_proj_bias", at::empty({rows}));
    down_bias_D_ = register_parameter("down_proj_bias", at::empty({hidden_size}));
  }
}

at::Tensor FeedForward::forward(const at::Tensor& x_TD) const {
  const auto group = [](const at::Tensor& t) { return t.defined() ? t.unsqueeze(0) : t; };
  return ops::grouped_feed_forward(
      x_TD, {x_TD.size(0)},
      {group(up_UD_), group(up_bias_U_), group(down_DF_), group(down_bias_D_)}, activation_);
}

}  // namespace locus::nn
