// The pieces that routers share: scores, selection, capacity, weights, random draws, checks.
//
// T tokens, D hidden size, E experts, K choices per token, N assignments.
//
// A router works in two steps. It chooses, without gradients: which (token, expert) pairs. It
// weighs, with gradients: the combine weights of given pairs. A replay is the second step alone.
//
// All choices are deterministic, on every device: a higher score wins, among equal scores the lower
// index, and NaN ranks as minus infinity. So a row of NaN yields valid experts with NaN weights.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "locus/moe/router.h"

namespace locus::moe {

// float64 for float64 input (finite differences need it), float32 for everything else.
at::ScalarType compute_type(const at::Tensor& x);

// The gate's [E, D], float32, normal(0, init_std), drawn by (seed, layer) alone.
at::Tensor init_gate_weight(const RouterContext& context);

// Rows for experts, float32 [E, dim], that stand at right angles to each other and have length 0.1;
// above `dim` experts they have that length alone. Drawn by (seed, layer, dim) alone. As BASE's
// centroids are.
at::Tensor init_centroids(const RouterContext& context, int64_t dim);

// x W^T in the compute type of x.
at::Tensor gate_logits(const at::Tensor& x_TD, const at::Tensor& weight_ED);

// The k best columns of each row, best first; int64 [rows, k]. No gradients. Needs 1 <= k <=
// columns.
at::Tensor top_k(const at::Tensor& score_RC, int64_t k);

// The pairs that the tokens ask for, token-major, best first within a token.
Assignment assign(const at::Tensor& expert_TK);

// The pairs where keep_N is true, in their order.
Assignment keep_where(const Assignment& assignment, const at::Tensor& keep_N);

// score_TE at the pairs of the assignment, [N]; differentiable.
at::Tensor gather_scores(const at::Tensor& score_TE, const Assignment& assignment);

// The tokens without any pair, rising int64 [U].
at::Tensor unclaimed_tokens(const Assignment& assignment, int64_t num_tokens);

// How many tokens have the same experts in both.
int64_t tokens_with_equal_experts(const Assignment& a, const Assignment& b, int64_t num_tokens,
                                  int64_t num_experts);

// Pairs per expert, float32 [E].
at::Tensor count_experts(const at::Tensor& expert, int64_t num_experts);

// Adds a micro-batch to Router::requested_E; sets it when it is undefined.
void add_requested(at::Tensor& requested_E, const at::Tensor& expert, int64_t num_experts);

// Balance without a loss (Wang et al., 2024, arXiv 2408.15664): experts with less than the mean
// load gain `rate`, those with more lose it. The mean is that of the experts which some domain has
// together with this one (RouterContext::allowed_GE); undefined: of all. In place, without
// gradients.
void move_bias(at::Tensor& bias_E, const at::Tensor& load_E, double rate,
               const at::Tensor& allowed_GE = {});

// ---- Capacity. Work proportional to the assignments.

// ceil(factor * T * k / E), at most T. Decimal factors mean what they say: 1.1 * 100 / 10 is 11,
// not 12.
int64_t expert_capacity(double factor, int64_t num_tokens, int64_t k, int64_t num_experts);

// The assignments in order of precedence, int64 [N]: "position" by order, else by falling weight,
// ties by order. For "random", weights are draws.
at::Tensor precedence(std::string_view drop_policy, const at::Tensor& weight_N);

// True for the first `capacity` assignments of each expert in that order, bool [N].
at::Tensor within_capacity(const at::Tensor& expert_N, const at::Tensor& precedence_N,
                           int64_t num_experts, int64_t capacity);

// Rows that belong to this rank's tokens token_N, to be pooled with those of the other ranks.
PooledRows pooled_rows(const TokenPool& pool, const TokenContext& tokens,
                       const at::Tensor& token_N);

// What the tokens of all ranks ask for, which a limit on the experts is decided by: one message.
// The limit drops by the policy of `config`; assignments of a lower number in choice_N (if defined)
// go first.
class SharedRequests {
 public:
  // is_even: each token has equally many requests, on all ranks.
  SharedRequests(const RouterConfig& config, const RouterContext& context,
                 const TokenContext& tokens, const Assignment& requested,
                 const at::Tensor& weight_N, bool is_even, const at::Tensor& choice_N = {});

  // Requests of each expert, of all ranks; float32 [E].
  at::Tensor count_E() const;
  // What is left of this rank's where an expert takes at most `capacity` of all.
  Assignment within(int64_t capacity) const;

 private:
  const RouterConfig& config_;
  int64_t num_experts_;
  Assignment requested_;
  PooledRows rows_;
  std::vector<at::Tensor> all_;  // expert, weight, choice
};

// Limited by the factor of `config`; 0 keeps all. requested_TK must be there, and is what has been
// asked for unless choice_N says more; then Assignment::count_E comes out of the same message.
Assignment within_capacity_factor(const RouterConfig& config, const RouterContext& context,
                                  const TokenContext& tokens, const Assignment& requested,
                                  const at::Tensor& weight_N, const at::Tensor& choice_N = {});

// Assignment::count_E, where the balance loss of `config` will ask for it.
void take_counts(const RouterConfig& config, const SharedRequests& shared, Assignment& assignment);

// The least capacity with which at most `share` of the requests are dropped; requested_E counts
// those of each expert. At least 1.
int64_t capacity_of_drop_share(const at::Tensor& requested_E, double share);

// True where the limit of `config` makes a token's expert depend on later tokens.
bool drops_look_ahead(const RouterConfig& config);

// ---- Random draws.

// The key of one stream of draws of this layer at this step, for ops::keyed_uniform().
uint64_t draw_key(const RouterContext& context, const TokenContext& tokens,
                  std::string_view stream);

// ---- Checks of settings, one text per problem.

// Settings that all routers share.
std::vector<std::string> common_problems(const RouterConfig& config, int64_t num_experts);

// Adds a problem unless a token can have moe.router.top_k experts.
void check_top_k(std::vector<std::string>& problems, const RouterConfig& config,
                 int64_t num_experts);

// Adds a problem unless `value` is one of `allowed`; key without its "moe.".
void check_choice(std::vector<std::string>& problems, std::string_view key, std::string_view value,
                  const std::vector<std::string>& allowed);

// Adds a problem unless the value is finite and 0 or more; key without its "moe.".
void check_not_negative(std::vector<std::string>& problems, std::string_view key, double value);

// The forms for devices without a host loop, in tensor operations; tests hold them against the
// loops.
namespace generic {
at::Tensor top_k(const at::Tensor& score_RC, int64_t k);
at::Tensor within_capacity(const at::Tensor& expert_N, const at::Tensor& precedence_N,
                           int64_t num_experts, int64_t capacity);
}  // namespace generic

}  // namespace locus::moe
