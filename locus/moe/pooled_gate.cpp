#include "locus/moe/pooled_gate.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <limits>

#include "locus/base/error.h"
#include "locus/ops/group_sums.h"

namespace locus::moe {

PooledGate::PooledGate(const RouterContext& context, PoolScale scale)
    : PooledGate(context.hidden_size,
                 context.kept_experts.empty() ? context.num_experts : context.num_experts_before,
                 scale, context.kept_experts) {}

PooledGate::PooledGate(int64_t hidden_size, int64_t num_experts, PoolScale scale,
                       const std::vector<int64_t>& kept)
    : num_groups_(num_experts) {
  if (num_experts > hidden_size) {
    throw ConfigError(
        "moe.num_experts = {}: a pooled gate has a group of channels for each expert, so at most "
        "model.hidden_size = {}",
        num_experts, hidden_size);
  }
  at::Tensor size_E = ops::group_sizes(hidden_size, num_experts);
  if (!kept.empty()) {
    kept_E_ = at::tensor(kept, at::kLong);
    size_E = size_E.index_select(0, kept_E_);
  }
  scale_E_ = scale == PoolScale::kMean ? size_E.reciprocal() : size_E.rsqrt();
  if (scale == PoolScale::kMean) length_E_ = size_E.rsqrt();
}

at::Tensor PooledGate::values(const at::Tensor& x_TD) const {
  at::Tensor sum_TE = ops::group_sums(x_TD, num_groups_);
  if (kept_E_.defined()) sum_TE = sum_TE.index_select(1, kept_E_.to(sum_TE.device()));
  return sum_TE * scale_E_.to(sum_TE.options());
}

at::Tensor PooledGate::cosines(const at::Tensor& value_TE, const at::Tensor& x_TD) const {
  const at::Tensor length_T1 =
      at::linalg_vector_norm(x_TD, 2, at::IntArrayRef{1}, true, value_TE.scalar_type());
  const at::Tensor cosine_TE = value_TE / length_T1.masked_fill(length_T1.eq(0), 1.0);
  return length_E_.defined() ? cosine_TE / length_E_.to(value_TE.options()) : cosine_TE;
}

double temperature_or_default(double temperature, int64_t top_k) {
  if (temperature != 0) return temperature;
  return top_k == 1 ? 0.3 : 1.0;
}

std::string output_weight_or_default(const std::string& output_weight, int64_t top_k,
                                     const std::string& of_several) {
  if (output_weight != "auto") return output_weight;
  return top_k == 1 ? "probability" : of_several;
}

at::Tensor within_domain_group(const at::Tensor& score_TE, const RouterContext& context,
                               const TokenContext& tokens) {
  if (!context.allowed_GE.defined()) return score_TE;
  LOCUS_CHECK(tokens.group_T.defined(), "tokens without a domain's group");
  const at::Tensor allowed_TE =
      context.allowed_GE.to(score_TE.device()).index_select(0, tokens.group_T);
  return score_TE.masked_fill(allowed_TE.logical_not(), -std::numeric_limits<double>::infinity());
}

at::Tensor local_experts(const std::vector<int64_t>& node_of_expert, int64_t node) {
  const auto near = std::count(node_of_expert.begin(), node_of_expert.end(), node);
  if (near == 0 || near == static_cast<int64_t>(node_of_expert.size())) return {};
  return at::tensor(node_of_expert, at::kLong).eq(node);
}

at::Tensor locality_loss(const at::Tensor& probability_TE, const at::Tensor& is_local_E,
                         double eps) {
  const at::Tensor current_E = probability_TE.mean(0);
  const at::Tensor is_local = is_local_E.to(current_E.device());
  const at::Tensor num_local = is_local.sum().to(current_E.scalar_type());
  const at::Tensor num_far = static_cast<double>(is_local.numel()) - num_local;
  const at::Tensor local_E = at::where(is_local, (1 - eps) / num_local, eps / num_far);
  // A share of 0 has a finite gradient here, as 0 log 0 = 0 has none.
  const at::Tensor log_E = current_E.clamp_min(std::numeric_limits<float>::min()).log();
  return (current_E * (log_E - local_E.log())).sum();
}

}  // namespace locus::moe
