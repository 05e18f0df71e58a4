#include "locus/nn/linear.h"

#include <ATen/ATen.h>

#include "locus/ops/linear.h"

namespace locus::nn {

Linear::Linear(int64_t in_features, int64_t out_features, bool with_bias) {
  weight = register_parameter("weight", at::empty({out_features, in_features}));
  if (with_bias) bias = register_parameter("bias", at::empty({out_features}));
}

at::Tensor Linear::forward(const at::Tensor& x) const { return ops::linear(x, weight, bias); }

}  // namespace locus::nn
