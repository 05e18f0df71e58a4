// Experts choose among the tokens that have named them (LocMoE+, step 2 of its selection): the best
// of all ranks' tokens, found by histograms whose sums the ranks share, not by bringing all
// candidates together.
//
// N candidates of this rank, E experts.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <limits>

#include "locus/moe/router.h"

namespace locus::moe {

// Tokens of this rank that have named experts.
struct Candidates {
  at::Tensor token_N, expert_N;  // int64
  at::Tensor affinity_N;         // cosines; NaN is the lowest
  at::Tensor probability_N;      // what each adds to its expert's total; NaN adds nothing
};

// How much an expert takes of what has named it: the fewest of highest affinity whose probabilities
// sum to the share rho of all of them, not fewer than `floor`, not more than `ceiling`.
struct SelectionLimits {
  double rho = 1.0;
  int64_t floor = 0;
  int64_t ceiling = std::numeric_limits<int64_t>::max();
};

struct Selection {
  at::Tensor keep_N;  // bool
  // Float64: the lowest affinity that each expert took, of all ranks. kTookAll where it refused
  // nobody, NaN where it took nobody.
  at::Tensor lowest_E;
};

inline constexpr double kTookAll = -2.0;  // below any cosine

// Of equal affinities, the earlier token of the global batch goes first. The same on any layout;
// all ranks of the pool call it together, each with the same `num_tokens` tokens (as TokenPool
// says). They sum three times 128 numbers for each expert, and bring together the few candidates
// that are then left to decide on.
Selection select_by_experts(const Candidates& candidates, int64_t num_experts, int64_t num_tokens,
                            const SelectionLimits& limits, const TokenPool& pool,
                            const TokenContext& tokens);

}  // namespace locus::moe
