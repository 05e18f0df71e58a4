// Where ranks are, and which of them exchange tokens.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace locus::placement {

// Ranks of one expert-parallel group exchange tokens among themselves alone.
struct Neighbourhood {
  std::vector<int64_t> node_of_rank;
  std::vector<std::vector<int64_t>> ranks_of_group;  // by group and place in it

  int64_t node_of(int64_t rank) const { return node_of_rank[static_cast<size_t>(rank)]; }
  bool share_node(int64_t a, int64_t b) const { return node_of(a) == node_of(b); }
};

// The experts of a layer by their places, in order of the ranks of a group; each rank has equally
// many. Empty: in order of their numbers.
using ExpertOfSlot = std::vector<int64_t>;

}  // namespace locus::placement
