#include "locus/moe/assignment_rows.h"

namespace locus::moe {

ExchangePart make_flat_part(const ExpertMap& map, const PartAssignments& part,
                            const PartCounts& counts) {
  ExchangePart out = make_assignment_part(map, part, counts);
  const comm::RowMatrix rows = assignment_matrix(map, counts);
  out.route = comm::make_flat_route(map.group, rows.sent_by(map.group->rank()),
                                    rows.received_by(map.group->rank()));
  return out;
}

}  // namespace locus::moe
