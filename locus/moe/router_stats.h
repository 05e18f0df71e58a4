// What one MoE layer has to tell about its routing, summed over the micro-batches of a step.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "locus/comm/process_group.h"
#include "locus/moe/router.h"

namespace locus::moe {

struct RouterStats {
  std::vector<int64_t> tokens_per_expert;  // assignments that were computed
  int64_t num_tokens = 0;
  int64_t num_requested = 0;                   // assignments before the capacity limit
  int64_t num_unrouted = 0;                    // tokens without any expert
  double entropy_sum = 0, top_weight_sum = 0;  // over tokens; from the router's distribution
  double balance_loss = 0, z_loss = 0, locality_loss = 0;  // summed over micro-batches
  int64_t num_batches = 0;
  std::vector<std::vector<int64_t>>
      domain_expert;  // [domain][expert], assignments; empty: not sampled

  double load_cv() const;  // standard deviation / mean of tokens_per_expert
  double load_max_over_mean() const;
  int64_t dead_experts() const;
  double dropped_share() const;   // of the requested assignments
  double unrouted_share() const;  // of the tokens
};

// Adds a matrix of counts to another; an empty `sum` takes its shape.
void add_counts(std::vector<std::vector<int64_t>>& sum,
                const std::vector<std::vector<int64_t>>& more);

// Adds one routing to `stats`. num_domains > 0 samples domain_expert too.
void add_routing(RouterStats& stats, const Routing& routing, const TokenContext& tokens,
                 int64_t num_experts, int64_t num_tokens, int64_t num_domains);

// The sums over the ranks, the same on all of them; null: this rank alone.
RouterStats sum_over(comm::ProcessGroup* group, const RouterStats& stats);

}  // namespace locus::moe
