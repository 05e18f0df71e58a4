// Which rank holds which experts (ours; LocMoE's spec, section 3, lever 3): those whose tokens come
// from its node. Every rank holds equally many. Of all such placements it is the one with the
// fewest tokens between nodes, where what moving an expert costs counts as tokens, too, and a token
// between ranks of one node for a thousandth: a transport problem, solved exactly. How many tokens
// a rank's experts get plays no part; a balance loss sees to that.
//
// R ranks, E experts.
#pragma once

#include <vector>

#include "locus/placement/neighbourhood.h"

namespace locus::placement {

struct ExpertPlan {
  ExpertOfSlot expert_of_slot;
  double crossed = 0, crosses = 0;  // of the counted tokens, between nodes: before and after
  int64_t moved = 0;                // experts that change their rank
  int64_t moved_between_nodes = 0;  // of all groups together
};

// tokens_RE: the tokens of each rank that will go to each expert. `now`: where the experts are.
// tokens_of_move: what an expert costs that moves between nodes, in tokens that cross. What stays
// on its rank keeps its place, and so does what gains nothing.
ExpertPlan plan_experts(const Neighbourhood& neighbourhood,
                        const std::vector<std::vector<double>>& tokens_RE, const ExpertOfSlot& now,
                        double tokens_of_move);

}  // namespace locus::placement
