// What exchanges share in which every assignment is a row: home rows by expert, arriving rows by
// source rank, expert rows by expert and then by source rank. Ranks hold the sequences of the
// global batch in order, so an expert sees its rows in the order in which one rank alone would show
// them. Weights stay at home.
#pragma once

#include "locus/moe/exchange.h"

namespace locus::moe {

// Rows from each rank to each.
comm::RowMatrix assignment_matrix(const ExpertMap& map, const PartCounts& counts);

// Rows of each of the part's experts of this rank.
std::vector<int64_t> expert_counts(const ExpertMap& map, const PartAssignments& part,
                                   const PartCounts& counts);

// Arriving row (by source rank, then expert) of each expert row.
std::vector<int64_t> arrival_of_expert_rows(const ExpertMap& map, const PartAssignments& part,
                                            const PartCounts& counts);

at::Tensor index_tensor(const std::vector<int64_t>& index);

// All but the route.
ExchangePart make_assignment_part(const ExpertMap& map, const PartAssignments& part,
                                  const PartCounts& counts);

}  // namespace locus::moe
