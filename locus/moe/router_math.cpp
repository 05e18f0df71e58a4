#include "locus/moe/router_math.h"

#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include "locus/base/error.h"
#include "locus/base/random.h"
#include "locus/ops/keyed_random.h"
#include "locus/ops/linear.h"

namespace locus::moe {
namespace {

constexpr int64_t kInsertionLimit =
    32;  // above it, keeping the best in a sorted list costs too much

template <class T>
T nan_to_lowest(T value) {
  return std::isnan(value) ? -std::numeric_limits<T>::infinity() : value;
}

// The best k by insertion into a sorted list: ties keep the order of arrival.
template <class T>
void top_k_by_insertion(const T* row, int64_t num_columns, int64_t k, int64_t* best) {
  T best_score[kInsertionLimit];
  int64_t filled = 0;
  for (int64_t column = 0; column < num_columns; ++column) {
    const T score = nan_to_lowest(row[column]);
    if (filled == k && !(score > best_score[k - 1])) continue;
    int64_t place = filled < k ? filled++ : k - 1;
    for (; place > 0 && score > best_score[place - 1]; --place) {
      best_score[place] = best_score[place - 1];
      best[place] = best[place - 1];
    }
    best_score[place] = score;
    best[place] = column;
  }
}

template <class T>
void top_k_by_sort(const T* row, int64_t num_columns, int64_t k, int64_t* best) {
  std::vector<int64_t> order(static_cast<size_t>(num_columns));
  std::iota(order.begin(), order.end(), int64_t{0});
  std::partial_sort(order.begin(), order.begin() + k, order.end(), [row](int64_t a, int64_t b) {
    const T score_a = nan_to_lowest(row[a]);
    const T score_b = nan_to_lowest(row[b]);
    return score_a > score_b || (score_a == score_b && a < b);
  });
  std::copy_n(order.begin(), k, best);
}

at::Tensor top_k_on_host(const at::Tensor& score_RC, int64_t k) {
  const at::Tensor score = score_RC.contiguous();
  const int64_t num_columns = score.size(1);
  at::Tensor best_RK = at::empty({score.size(0), k}, score.options().dtype(at::kLong));
  const int64_t grain = std::max<int64_t>(1, 16384 / num_columns);
  AT_DISPATCH_FLOATING_TYPES(score.scalar_type(), "top_k", [&] {
    const scalar_t* rows = score.const_data_ptr<scalar_t>();
    int64_t* best = best_RK.mutable_data_ptr<int64_t>();
    at::parallel_for(0, score.size(0), grain, [&](int64_t begin, int64_t end) {
      const auto select =
          k <= kInsertionLimit ? top_k_by_insertion<scalar_t> : top_k_by_sort<scalar_t>;
      for (int64_t r = begin; r < end; ++r) {
        select(rows + r * num_columns, num_columns, k, best + r * k);
      }
    });
  });
  return best_RK;
}

at::Tensor within_capacity_on_host(const at::Tensor& expert_N, const at::Tensor& precedence_N,
                                   int64_t num_experts, int64_t capacity) {
  const at::Tensor expert = expert_N.contiguous();
  const at::Tensor order = precedence_N.contiguous();
  at::Tensor keep_N = at::empty(expert.sizes(), expert.options().dtype(at::kBool));
  const int64_t* experts = expert.const_data_ptr<int64_t>();
  const int64_t* entries = order.const_data_ptr<int64_t>();
  bool* keep = keep_N.mutable_data_ptr<bool>();
  std::vector<int64_t> taken(static_cast<size_t>(num_experts), 0);
  for (int64_t i = 0; i < expert.numel(); ++i) {
    const int64_t e = experts[entries[i]];
    LOCUS_CHECK(e >= 0 && e < num_experts, "expert {} of {}", e, num_experts);
    keep[entries[i]] = taken[static_cast<size_t>(e)]++ < capacity;
  }
  return keep_N;
}

}  // namespace

at::ScalarType compute_type(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

at::Tensor init_gate_weight(const RouterContext& context) {
  const at::Tensor weight_ED = at::empty({context.num_experts, context.hidden_size}, at::kFloat);
  ops::keyed_normal_(
      weight_ED, context.init_std,
      random_key({context.seed, static_cast<uint64_t>(context.layer), name_key("router")}));
  return weight_ED;
}

at::Tensor init_centroids(const RouterContext& context, int64_t dim) {
  constexpr double kLength = 0.1;
  const at::Tensor row_EC = at::empty({context.num_experts, dim}, at::kDouble);
  ops::keyed_normal_(row_EC, 1.0,
                     random_key({context.seed, static_cast<uint64_t>(context.layer),
                                 static_cast<uint64_t>(dim), name_key("centroids")}));
  // Gram and Schmidt, row by row: the same on every machine, as a library's factors may not be.
  for (int64_t e = 0; e < context.num_experts; ++e) {
    at::Tensor row_C = row_EC[e];
    for (int64_t before = 0; e < dim && before < e; ++before) {
      row_C.sub_(row_EC[before] * row_C.dot(row_EC[before]));
    }
    row_C.div_(row_C.norm());
  }
  return (row_EC * kLength).to(at::kFloat);
}

at::Tensor gate_logits(const at::Tensor& x_TD, const at::Tensor& weight_ED) {
  const at::ScalarType type = compute_type(x_TD);
  return ops::linear(x_TD.to(type), weight_ED.to(type), {});
}

at::Tensor top_k(const at::Tensor& score_RC, int64_t k) {
  LOCUS_CHECK(k >= 1 && k <= score_RC.size(1), "k = {} of {}", k, score_RC.size(1));
  const at::Tensor score = score_RC.detach();
  return score.is_cpu() ? top_k_on_host(score, k) : generic::top_k(score, k);
}

Assignment assign(const at::Tensor& expert_TK) {
  const at::Tensor token_T = at::arange(expert_TK.size(0), expert_TK.options());
  return {
      token_T.unsqueeze(1).expand_as(expert_TK).reshape(-1), expert_TK.reshape(-1), expert_TK, {}};
}

Assignment keep_where(const Assignment& assignment, const at::Tensor& keep_N) {
  const at::Tensor kept = at::nonzero(keep_N).squeeze(1);
  return {assignment.token_N.index_select(0, kept), assignment.expert_N.index_select(0, kept),
          assignment.requested_TK, assignment.count_E};
}

at::Tensor gather_scores(const at::Tensor& score_TE, const Assignment& assignment) {
  const at::Tensor place_N = assignment.token_N * score_TE.size(1) + assignment.expert_N;
  return score_TE.reshape(-1).index_select(0, place_N);
}

at::Tensor unclaimed_tokens(const Assignment& assignment, int64_t num_tokens) {
  return at::nonzero(
             at::bincount(assignment.token_N, {}, num_tokens).narrow(0, 0, num_tokens).eq(0))
      .squeeze(1);
}

int64_t tokens_with_equal_experts(const Assignment& a, const Assignment& b, int64_t num_tokens,
                                  int64_t num_experts) {
  const auto experts_TE = [&](const Assignment& assignment) {
    const at::Tensor place_N = assignment.token_N * num_experts + assignment.expert_N;
    return at::zeros({num_tokens * num_experts}, place_N.options().dtype(at::kBool))
        .index_fill(0, place_N, true)
        .view({num_tokens, num_experts});
  };
  return experts_TE(a).eq(experts_TE(b)).all(1).sum().item<int64_t>();
}

at::Tensor count_experts(const at::Tensor& expert, int64_t num_experts) {
  return at::bincount(expert.reshape(-1), {}, num_experts).to(at::kFloat);
}

void add_requested(at::Tensor& requested_E, const at::Tensor& expert, int64_t num_experts) {
  const at::Tensor count_E = count_experts(expert, num_experts);
  requested_E = requested_E.defined() ? requested_E + count_E : count_E;
}

void move_bias(at::Tensor& bias_E, const at::Tensor& load_E, double rate,
               const at::Tensor& allowed_GE) {
  const at::Tensor load = load_E.to(bias_E.options());
  if (!allowed_GE.defined()) {
    bias_E += at::sign(load.mean() - load) * rate;
    return;
  }
  const at::Tensor allowed = allowed_GE.to(bias_E.options());
  const at::Tensor competes_EE = at::mm(allowed.t(), allowed).gt(0).to(bias_E.scalar_type());
  // An expert that no domain has competes with nobody.
  const at::Tensor mean_E = at::mv(competes_EE, load) / competes_EE.sum(1).clamp_min(1);
  bias_E += at::sign(mean_E - load) * competes_EE.diagonal() * rate;
}

int64_t expert_capacity(double factor, int64_t num_tokens, int64_t k, int64_t num_experts) {
  const double exact = factor * static_cast<double>(num_tokens) * static_cast<double>(k) /
                       static_cast<double>(num_experts);
  const double rounding = 1.0 - 1e-12;  // of the factor's decimals
  const double limit = std::min(std::ceil(exact * rounding), static_cast<double>(num_tokens));
  return static_cast<int64_t>(limit);
}

at::Tensor precedence(std::string_view drop_policy, const at::Tensor& weight_N) {
  if (drop_policy == "position") {
    return at::arange(weight_N.numel(), weight_N.options().dtype(at::kLong).requires_grad(false));
  }
  const at::Tensor weight = weight_N.detach();
  const double lowest = -std::numeric_limits<double>::infinity();
  return at::argsort(weight.masked_fill(weight.isnan(), lowest), /*stable=*/true, /*dim=*/0,
                     /*descending=*/true);
}

at::Tensor within_capacity(const at::Tensor& expert_N, const at::Tensor& precedence_N,
                           int64_t num_experts, int64_t capacity) {
  return expert_N.is_cpu()
             ? within_capacity_on_host(expert_N, precedence_N, num_experts, capacity)
             : generic::within_capacity(expert_N, precedence_N, num_experts, capacity);
}

PooledRows pooled_rows(const TokenPool& pool, const TokenContext& tokens,
                       const at::Tensor& token_N) {
  return {pool, token_N.size(0),
          tokens.is_placed ? tokens.global_index_T.index_select(0, token_N) : at::Tensor()};
}

namespace {

// Of each assignment, the same wherever its token is computed.
at::Tensor draws_of(const RouterContext& context, const TokenContext& tokens,
                    const Assignment& assignment) {
  const at::Tensor place_N =
      tokens.global_index_T.index_select(0, assignment.token_N) * context.num_experts +
      assignment.expert_N;
  return ops::keyed_uniform(draw_key(context, tokens, "drops"), place_N, 1).squeeze(1);
}

}  // namespace

SharedRequests::SharedRequests(const RouterConfig& config, const RouterContext& context,
                               const TokenContext& tokens, const Assignment& requested,
                               const at::Tensor& weight_N, bool is_even, const at::Tensor& choice_N)
    : config_(config),
      num_experts_(context.num_experts),
      requested_(requested),
      rows_(pooled_rows(context.pool, tokens, requested.token_N)) {
  std::vector<at::Tensor> own{requested.expert_N, config.drop_policy == "random"
                                                      ? draws_of(context, tokens, requested)
                                                      : weight_N};
  if (choice_N.defined()) own.push_back(choice_N);
  all_ = rows_.gather_together(own, is_even);
}

at::Tensor SharedRequests::count_E() const { return count_experts(all_[0], num_experts_); }

Assignment SharedRequests::within(int64_t capacity) const {
  at::Tensor order = precedence(config_.drop_policy, all_[1]);
  if (all_.size() > 2) {
    const at::Tensor choice = all_[2].index_select(0, order);
    order = order.index_select(0, at::argsort(choice, /*stable=*/true));
  }
  return keep_where(requested_, rows_.own(within_capacity(all_[0], order, num_experts_, capacity)));
}

Assignment within_capacity_factor(const RouterConfig& config, const RouterContext& context,
                                  const TokenContext& tokens, const Assignment& requested,
                                  const at::Tensor& weight_N, const at::Tensor& choice_N) {
  if (config.capacity_factor == 0) return requested;
  const at::Tensor& requested_TK = requested.requested_TK;
  const int64_t capacity =
      expert_capacity(config.capacity_factor, requested_TK.size(0) * context.pool.num_ranks(),
                      requested_TK.size(1), context.num_experts);
  const bool is_even = !choice_N.defined();
  const SharedRequests shared(config, context, tokens, requested, weight_N, is_even, choice_N);
  Assignment kept = shared.within(capacity);
  if (is_even) take_counts(config, shared, kept);
  return kept;
}

void take_counts(const RouterConfig& config, const SharedRequests& shared, Assignment& assignment) {
  const bool is_wanted = config.aux_loss_coeff > 0 && config.aux_loss_scope == "micro_batch";
  if (is_wanted && !assignment.count_E.defined()) assignment.count_E = shared.count_E();
}

int64_t capacity_of_drop_share(const at::Tensor& requested_E, double share) {
  const at::Tensor count = requested_E.detach().to(at::kCPU, at::kDouble).contiguous();
  std::vector<double> count_E(count.const_data_ptr<double>(),
                              count.const_data_ptr<double>() + count.numel());
  std::sort(count_E.begin(), count_E.end(), std::greater<>());
  double droppable = share * std::accumulate(count_E.begin(), count_E.end(), 0.0);
  // Level the largest down to the next one, as long as what they have above it may go.
  for (size_t i = 0; i < count_E.size(); ++i) {
    const double next = i + 1 < count_E.size() ? count_E[i + 1] : 0.0;
    const auto members = static_cast<double>(i + 1);
    const double above = members * (count_E[i] - next);
    if (above > droppable) {
      const double level = std::ceil(count_E[i] - droppable / members - 1e-9);
      return std::max<int64_t>(1, static_cast<int64_t>(level));
    }
    droppable -= above;
  }
  return 1;
}

bool drops_look_ahead(const RouterConfig& config) {
  return config.capacity_factor > 0 && config.drop_policy != "position";
}

uint64_t draw_key(const RouterContext& context, const TokenContext& tokens,
                  std::string_view stream) {
  return random_key({context.seed, static_cast<uint64_t>(tokens.step),
                     static_cast<uint64_t>(context.layer), name_key(stream)});
}

void check_top_k(std::vector<std::string>& problems, const RouterConfig& config,
                 int64_t num_experts) {
  if (config.top_k >= 1 && config.top_k <= num_experts) return;
  problems.push_back(format("moe.router.top_k = {}: must be 1 to moe.num_experts = {}",
                            config.top_k, num_experts));
}

void check_choice(std::vector<std::string>& problems, std::string_view key, std::string_view value,
                  const std::vector<std::string>& allowed) {
  if (std::find(allowed.begin(), allowed.end(), value) != allowed.end()) return;
  std::string known;
  for (const std::string& choice : allowed) known += (known.empty() ? "" : ", ") + choice;
  problems.push_back(format("moe.{} = \"{}\" is not known; known: {}", key, value, known));
}

void check_not_negative(std::vector<std::string>& problems, std::string_view key, double value) {
  if (value >= 0 && std::isfinite(value)) return;
  problems.push_back(format("moe.{} = {}: must be 0 or more", key, value));
}

std::vector<std::string> common_problems(const RouterConfig& config, int64_t num_experts) {
  std::vector<std::string> problems;
  if (num_experts < 1) {
    problems.push_back(format("moe.num_experts = {}: a router needs at least 1", num_experts));
  }
  check_not_negative(problems, "router.capacity_factor", config.capacity_factor);
  check_not_negative(problems, "router.aux_loss_coeff", config.aux_loss_coeff);
  check_not_negative(problems, "router.z_loss_coeff", config.z_loss_coeff);
  check_choice(problems, "router.drop_policy", config.drop_policy, {"probs", "position", "random"});
  check_choice(problems, "router.aux_loss_scope", config.aux_loss_scope,
               {"micro_batch", "sequence", "global_batch"});
  return problems;
}

namespace generic {

at::Tensor top_k(const at::Tensor& score_RC, int64_t k) {
  const double lowest = -std::numeric_limits<double>::infinity();
  const at::Tensor score = score_RC.masked_fill(score_RC.isnan(), lowest);
  return at::argsort(score, /*stable=*/true, /*dim=*/1, /*descending=*/true)
      .slice(1, 0, k)
      .contiguous();
}

at::Tensor within_capacity(const at::Tensor& expert_N, const at::Tensor& precedence_N,
                           int64_t num_experts, int64_t capacity) {
  // Sorted by expert, then by precedence, an assignment's place is its distance from its expert's
  // start.
  const at::Tensor expert_by_precedence_N = expert_N.index_select(0, precedence_N);
  const at::Tensor by_expert_N = at::argsort(expert_by_precedence_N, /*stable=*/true);
  const at::Tensor count_E = at::bincount(expert_N, {}, num_experts);
  const at::Tensor start_E = count_E.cumsum(0) - count_E;
  const at::Tensor sorted_expert_N = expert_by_precedence_N.index_select(0, by_expert_N);
  const at::Tensor place_N =
      at::arange(expert_N.numel(), expert_N.options()) - start_E.index_select(0, sorted_expert_N);
  at::Tensor keep_N = at::empty_like(expert_N, expert_N.options().dtype(at::kBool));
  keep_N.index_put_({precedence_N.index_select(0, by_expert_N)}, place_N < capacity);
  return keep_N;
}

}  // namespace generic
}  // namespace locus::moe
