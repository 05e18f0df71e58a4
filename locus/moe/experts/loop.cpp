// Expert by expert with plain differentiable operations: what the other kernels are compared with.

#include <ATen/ATen.h>

#include "locus/moe/experts.h"
#include "locus/ops/input_probe.h"

namespace locus::moe {

at::Tensor run_experts_loop(const at::Tensor& x_ND, const std::vector<int64_t>& counts_E,
                            const ops::FeedForwardWeights& weights, ops::Activation activation) {
  const auto of_expert = [&x_ND](const at::Tensor& all, int64_t e) {
    return all.defined() ? all.select(0, e).to(x_ND.dtype()) : at::Tensor();
  };
  std::vector<at::Tensor> out;
  int64_t row = 0;
  for (int64_t e = 0; e < static_cast<int64_t>(counts_E.size()); ++e) {
    const int64_t count = counts_E[static_cast<size_t>(e)];
    if (count == 0) continue;
    const at::Tensor up = at::linear(x_ND.narrow(0, row, count), of_expert(weights.up_EUD, e),
                                     of_expert(weights.up_bias_EU, e));
    at::Tensor active;
    if (activation == ops::Activation::kSwiglu) {
      const auto halves = up.chunk(2, 1);
      active = at::silu(halves[0]) * halves[1];
    } else {
      active = ops::apply_activation(up, activation);
    }
    ops::InputProbe::show(weights.down_EDF, active);
    out.push_back(
        at::linear(active, of_expert(weights.down_EDF, e), of_expert(weights.down_bias_ED, e)));
    row += count;
  }
  if (!out.empty()) return at::cat(out);
  // Without rows the weights take part all the same: their gradients are zero, not missing.
  at::Tensor none = x_ND.sum();
  for (const at::Tensor* weight :
       {&weights.up_EUD, &weights.up_bias_EU, &weights.down_EDF, &weights.down_bias_ED}) {
    if (weight->defined()) none = none + weight->sum().to(x_ND.scalar_type());
  }
  return at::zeros_like(x_ND) + none * 0;
}

}  // namespace locus::moe
