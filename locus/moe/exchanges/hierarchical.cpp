// After LocMoE's group-wise all-to-all (spec locmoe.md): the rows of flat, in two stages.
#include "locus/moe/assignment_rows.h"

namespace locus::moe {

ExchangePart make_hierarchical_part(const ExpertMap& map, const PartAssignments& part,
                                    const PartCounts& counts) {
  ExchangePart out = make_assignment_part(map, part, counts);
  out.route = comm::make_hierarchical_route(*map.nodes, assignment_matrix(map, counts));
  return out;
}

}  // namespace locus::moe
