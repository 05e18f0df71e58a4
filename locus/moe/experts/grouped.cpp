// All experts in one autograd function: products straight into one result, nothing saved but the
// input and the pre-activations. See ops/feed_forward.h.

#include "locus/moe/experts.h"

namespace locus::moe {

at::Tensor run_experts_grouped(const at::Tensor& x_ND, const std::vector<int64_t>& counts_E,
                               const ops::FeedForwardWeights& weights, ops::Activation activation) {
  return ops::grouped_feed_forward(x_ND, counts_E, weights, activation);
}

}  // namespace locus::moe
