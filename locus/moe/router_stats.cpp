#include "locus/moe/router_stats.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "locus/comm/collectives.h"
#include "locus/moe/router_math.h"

namespace locus::moe {
namespace {

double sum_of(const std::vector<int64_t>& counts) {
  return static_cast<double>(std::accumulate(counts.begin(), counts.end(), int64_t{0}));
}

double mean_load(const RouterStats& stats) {
  if (stats.tokens_per_expert.empty()) return 0;
  return sum_of(stats.tokens_per_expert) / static_cast<double>(stats.tokens_per_expert.size());
}

void add_domains(RouterStats& stats, const Routing& routing, const TokenContext& tokens,
                 int64_t num_experts, int64_t num_domains) {
  const at::Tensor domain_N = tokens.domain_T.index_select(0, routing.assignment.token_N);
  const at::Tensor known = domain_N.ge(0).logical_and_(domain_N.lt(num_domains));
  const at::Tensor cell_N =
      (domain_N * num_experts + routing.assignment.expert_N).masked_select(known);
  const at::Tensor count = at::bincount(cell_N, {}, num_domains * num_experts).cpu();
  const int64_t* value = count.const_data_ptr<int64_t>();
  stats.domain_expert.resize(static_cast<size_t>(num_domains),
                             std::vector<int64_t>(static_cast<size_t>(num_experts)));
  for (auto& row : stats.domain_expert) {
    for (int64_t& cell : row) cell += *value++;
  }
}

void add_values(std::vector<double>& sum, const at::Tensor& value_E) {
  const at::Tensor value = value_E.to(at::kCPU, at::kDouble).contiguous();
  sum.resize(static_cast<size_t>(value.numel()));
  for (size_t e = 0; e < sum.size(); ++e) sum[e] += value.const_data_ptr<double>()[e];
}

}  // namespace

double RouterStats::gradient_norm(double squared_sum) const {
  return std::sqrt(squared_sum) / static_cast<double>(std::max<int64_t>(1, num_batches));
}

double RouterStats::experts_per_token() const {
  return sum_of(tokens_per_expert) / static_cast<double>(num_tokens);
}

double RouterStats::load_cv() const {
  const double mean = mean_load(*this);
  if (mean == 0) return 0;
  double squares = 0;
  for (const int64_t load : tokens_per_expert) {
    squares += (static_cast<double>(load) - mean) * (static_cast<double>(load) - mean);
  }
  return std::sqrt(squares / static_cast<double>(tokens_per_expert.size())) / mean;
}

double RouterStats::load_max_over_mean() const {
  const double mean = mean_load(*this);
  if (mean == 0) return 0;
  return static_cast<double>(
             *std::max_element(tokens_per_expert.begin(), tokens_per_expert.end())) /
         mean;
}

int64_t RouterStats::dead_experts() const {
  return std::count(tokens_per_expert.begin(), tokens_per_expert.end(), 0);
}

double RouterStats::dropped_share() const {
  if (num_requested == 0) return 0;
  const auto kept = std::accumulate(tokens_per_expert.begin(), tokens_per_expert.end(), int64_t{0});
  return 1.0 - static_cast<double>(kept) / static_cast<double>(num_requested);
}

double RouterStats::unrouted_share() const {
  return num_tokens == 0 ? 0 : static_cast<double>(num_unrouted) / static_cast<double>(num_tokens);
}

std::vector<double> RouterStats::cosines() const {
  std::vector<double> means;
  for (size_t e = 0; e < cosine_sum_E.size(); ++e) {
    means.push_back(first_choices_E[e] > 0 ? cosine_sum_E[e] / first_choices_E[e]
                                           : std::numeric_limits<double>::quiet_NaN());
  }
  return means;
}

double RouterStats::cosine() const {
  const double tokens = std::accumulate(first_choices_E.begin(), first_choices_E.end(), 0.0);
  const double sum = std::accumulate(cosine_sum_E.begin(), cosine_sum_E.end(), 0.0);
  return tokens > 0 ? sum / tokens : std::numeric_limits<double>::quiet_NaN();
}

double RouterStats::calinski_harabasz() const {
  if (!cluster_sum_ED.defined()) return std::numeric_limits<double>::quiet_NaN();
  double num_rows = 0, num_clusters = 0, between = 0, square_of_means = 0;
  const at::Tensor mean_D = cluster_sum_ED.sum(0) / std::max<double>(1, sum_of(tokens_per_expert));
  for (size_t e = 0; e < tokens_per_expert.size(); ++e) {
    const auto count = static_cast<double>(tokens_per_expert[e]);
    if (count == 0) continue;
    const at::Tensor center_D = cluster_sum_ED[static_cast<int64_t>(e)] / count;
    num_rows += count;
    num_clusters += 1;
    between += count * (center_D - mean_D).square().sum().item<double>();
    square_of_means += count * center_D.square().sum().item<double>();
  }
  const double within = cluster_square_sum - square_of_means;
  if (num_clusters < 2 || num_rows <= num_clusters || !(within > 0)) {
    return std::numeric_limits<double>::quiet_NaN();
  }
  return (between / (num_clusters - 1)) / (within / (num_rows - num_clusters));
}

void add_counts(std::vector<std::vector<int64_t>>& sum,
                const std::vector<std::vector<int64_t>>& more) {
  sum.resize(more.size());
  for (size_t row = 0; row < more.size(); ++row) {
    sum[row].resize(more[row].size());
    for (size_t i = 0; i < more[row].size(); ++i) sum[row][i] += more[row][i];
  }
}

void add_routing(RouterStats& stats, const Routing& routing, const TokenContext& tokens,
                 int64_t num_experts, int64_t num_tokens, int64_t num_domains) {
  const at::NoGradGuard no_grad;
  const at::Tensor count_E = at::bincount(routing.assignment.expert_N, {}, num_experts).cpu();
  stats.tokens_per_expert.resize(static_cast<size_t>(num_experts));
  for (size_t e = 0; e < stats.tokens_per_expert.size(); ++e) {
    stats.tokens_per_expert[e] += count_E.const_data_ptr<int64_t>()[e];
  }
  stats.num_tokens += num_tokens;
  stats.num_requested += routing.num_requested;
  stats.num_batches += 1;
  stats.num_unrouted += unclaimed_tokens(routing.assignment, num_tokens).size(0);
  if (routing.probability_TE.defined() && num_tokens > 0) {
    const at::Tensor& p = routing.probability_TE;
    stats.entropy_sum += at::special_entr(p).sum().item<double>();
    stats.top_weight_sum += p.amax(1).sum().item<double>();
  }
  for (const auto& [sum, value] : {std::pair(&stats.balance_loss, routing.balance_loss),
                                   {&stats.z_loss, routing.z_loss},
                                   {&stats.locality_loss, routing.locality_loss},
                                   {&stats.balance_gradient, routing.balance_gradient},
                                   {&stats.z_gradient, routing.z_gradient},
                                   {&stats.locality_gradient, routing.locality_gradient}}) {
    if (value.defined()) *sum += value.item<double>();
  }
  stats.capacity_sum += routing.capacity;
  if (routing.cosine_sum_E.defined()) {
    add_values(stats.cosine_sum_E, routing.cosine_sum_E);
    add_values(stats.first_choices_E,
               at::bincount(routing.assignment.requested_TK.select(1, 0), {}, num_experts));
  }
  if (num_domains > 0 && tokens.domain_T.defined()) {
    add_domains(stats, routing, tokens, num_experts, num_domains);
  }
}

void add_clusters(RouterStats& stats, const Routing& routing, const at::Tensor& x_TD,
                  int64_t num_experts) {
  const at::NoGradGuard no_grad;
  constexpr int64_t kRows = 4096;  // at a time: in float64 all of them may not fit
  at::Tensor sum_ED = at::zeros({num_experts, x_TD.size(1)},
                                x_TD.options().dtype(at::kDouble).requires_grad(false));
  const at::Tensor& token_N = routing.assignment.token_N;
  for (int64_t first = 0; first < token_N.size(0); first += kRows) {
    const int64_t rows = std::min(kRows, token_N.size(0) - first);
    const at::Tensor x_ND =
        x_TD.detach().index_select(0, token_N.narrow(0, first, rows)).to(at::kDouble);
    sum_ED.index_add_(0, routing.assignment.expert_N.narrow(0, first, rows), x_ND);
    stats.cluster_square_sum += x_ND.square().sum().item<double>();
  }
  sum_ED = sum_ED.cpu();
  stats.cluster_sum_ED = stats.cluster_sum_ED.defined() ? stats.cluster_sum_ED + sum_ED : sum_ED;
}

RouterStats sum_over(comm::ProcessGroup* group, const RouterStats& stats) {
  if (group == nullptr) return stats;
  RouterStats sum = stats;
  // One message: counts are exact in float64 up to 2^53.
  const std::vector<double> scalars{static_cast<double>(sum.num_tokens),
                                    static_cast<double>(sum.num_requested),
                                    static_cast<double>(sum.num_unrouted),
                                    sum.entropy_sum,
                                    sum.top_weight_sum,
                                    sum.balance_loss,
                                    sum.z_loss,
                                    sum.locality_loss,
                                    sum.balance_gradient,
                                    sum.z_gradient,
                                    sum.locality_gradient,
                                    sum.cluster_square_sum};
  std::vector<double> values(scalars);
  values.insert(values.end(), sum.tokens_per_expert.begin(), sum.tokens_per_expert.end());
  for (const auto* one : {&sum.cosine_sum_E, &sum.first_choices_E}) {
    values.insert(values.end(), one->begin(), one->end());
  }
  for (const auto& row : sum.domain_expert) values.insert(values.end(), row.begin(), row.end());
  const at::Tensor total = comm::sum_over(group, at::tensor(values, at::kDouble));
  const double* value = total.const_data_ptr<double>();
  const auto count = [&value] { return static_cast<int64_t>(*value++); };
  sum.num_tokens = count();
  sum.num_requested = count();
  sum.num_unrouted = count();
  for (double* one :
       {&sum.entropy_sum, &sum.top_weight_sum, &sum.balance_loss, &sum.z_loss, &sum.locality_loss,
        &sum.balance_gradient, &sum.z_gradient, &sum.locality_gradient, &sum.cluster_square_sum}) {
    *one = *value++;
  }
  for (int64_t& load : sum.tokens_per_expert) load = count();
  for (auto* one : {&sum.cosine_sum_E, &sum.first_choices_E}) {
    for (double& number : *one) number = *value++;
  }
  for (auto& row : sum.domain_expert) {
    for (int64_t& cell : row) cell = count();
  }
  if (sum.cluster_sum_ED.defined()) {
    sum.cluster_sum_ED = comm::sum_over(group, sum.cluster_sum_ED);
  }
  return sum;
}

}  // namespace locus::moe
