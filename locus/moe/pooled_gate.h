// What LocMoE and LocMoE+ share: the gate without weights, and which experts are near.
//
// T tokens, D hidden size, E experts.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <vector>

#include "locus/moe/router.h"

namespace locus::moe {

// Of a group's sum: divided by the number of its channels, or by its square root, so that the value
// of a token of independent unit channels has unit variance.
enum class PoolScale { kMean, kUnitVariance };

// Grouped average pooling (LocMoE, eq. 2-4): the value of expert i is the scaled sum of the i-th of
// E contiguous groups of channels. Where E does not divide D, the first D mod E groups have one
// channel more.
class PooledGate {
 public:
  // ConfigError where there are more experts than channels. `kept`: the experts that it has values
  // for, each with its group among those of all; empty: all.
  PooledGate(int64_t hidden_size, int64_t num_experts, PoolScale scale,
             const std::vector<int64_t>& kept = {});
  // Of a layer's experts.
  PooledGate(const RouterContext& context, PoolScale scale);

  // [T, E] in the compute type of x.
  at::Tensor values(const at::Tensor& x_TD) const;

  // The cosines of x_t and the rows of the gate, from their values; 0 for a token of zeros.
  at::Tensor cosines(const at::Tensor& value_TE, const at::Tensor& x_TD) const;

  // The same from x: LocMoE+, eq. 2-4.
  at::Tensor affinities(const at::Tensor& x_TD) const { return cosines(values(x_TD), x_TD); }

 private:
  int64_t num_groups_;
  at::Tensor scale_E_;
  at::Tensor length_E_;  // of the gate's rows; undefined: 1
  at::Tensor kept_E_;    // undefined: all
};

// What the settings leave open, as it measured best (benchmarks/locality, gate). One expert's
// output is weighed by its probability, which is sharp so that the output counts; those of several
// have weights that sum to 1, and are soft.
double temperature_or_default(double temperature, int64_t top_k);  // 0 is open
// "auto" is open; `of_several`: the router's word for weights that sum to 1.
std::string output_weight_or_default(const std::string& output_weight, int64_t top_k,
                                     const std::string& of_several);

// Scores of experts that a token's domain does not own become minus infinity: no probability, never
// chosen. As they are where there are no groups.
at::Tensor within_domain_group(const at::Tensor& score_TE, const RouterContext& context,
                               const TokenContext& tokens);

// bool [E]: the experts of `node`. Undefined where that is all of them, or none: then
// locality has nothing to offer.
at::Tensor local_experts(const std::vector<int64_t>& node_of_expert, int64_t node);

// KL(D_c || D_l) (LocMoE, eq. 7): D_c = the mean of probability_TE over its tokens, D_l = 1 - eps
// evenly over the local experts, eps evenly over the others.
at::Tensor locality_loss(const at::Tensor& probability_TE, const at::Tensor& is_local_E,
                         double eps);

}  // namespace locus::moe
