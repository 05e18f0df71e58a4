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
  double balance_loss = 0, z_loss = 0, locality_loss = 0;              // summed over micro-batches
  double balance_gradient = 0, z_gradient = 0, locality_gradient = 0;  // squared norms, summed
  int64_t num_batches = 0;
  int64_t capacity_sum = 0;  // over micro-batches, of all ranks together; 0: no limit
  // By first choice: tokens, and the sum of their cosines to the gate's row; empty: not measured.
  std::vector<double> cosine_sum_E, first_choices_E;
  // Of the tokens by the expert that they went to, in float64: their sums [E, D] and that of their
  // squared lengths; undefined: not sampled.
  at::Tensor cluster_sum_ED;
  double cluster_square_sum = 0;
  std::vector<std::vector<int64_t>>
      domain_expert;  // [domain][expert], assignments; empty: not sampled

  // Of a loss for the logits of all tokens, from its squared norm: the loss of a step is the mean
  // of its micro-batches'.
  double gradient_norm(double squared_sum) const;
  double experts_per_token() const;  // that computed it, on average; NaN: no tokens
  double load_cv() const;            // standard deviation / mean of tokens_per_expert
  double load_max_over_mean() const;
  int64_t dead_experts() const;
  double dropped_share() const;         // of the requested assignments
  double unrouted_share() const;        // of the tokens
  std::vector<double> cosines() const;  // means by expert; NaN where it is nobody's first choice
  double cosine() const;                // of all; NaN: not measured
  // The Calinski-Harabasz index of the tokens, clustered by their experts (LocMoE+, eq. 13): how
  // far apart experts' tokens lie, over how far each expert's spread. NaN: not sampled, or one
  // expert.
  double calinski_harabasz() const;
};

// Adds a matrix of counts to another; an empty `sum` takes its shape.
void add_counts(std::vector<std::vector<int64_t>>& sum,
                const std::vector<std::vector<int64_t>>& more);

// Adds one routing to `stats`. num_domains > 0 samples domain_expert too.
void add_routing(RouterStats& stats, const Routing& routing, const TokenContext& tokens,
                 int64_t num_experts, int64_t num_tokens, int64_t num_domains);

// Adds what calinski_harabasz() needs of the same routing; x_TD: what the router saw.
void add_clusters(RouterStats& stats, const Routing& routing, const at::Tensor& x_TD,
                  int64_t num_experts);

// The sums over the ranks, the same on all of them; null: this rank alone.
RouterStats sum_over(comm::ProcessGroup* group, const RouterStats& stats);

}  // namespace locus::moe
