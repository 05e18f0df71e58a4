// Which units are left under limits: those that rank highest (docs: "Choosing what stays").
#pragma once

#include <cstdint>
#include <vector>

#include "locus/search/cost_model.h"

namespace locus::search {

// A rank for each unit, highest stays longest. In each group the most important unit has the
// highest one, and ranks are spread evenly over -1 to 1: whatever the limit, groups keep about the
// same share of theirs, so that all layers shrink alike. A slot of top_k ranks as one of its
// layer's K. Branches rank above all others, by their importance.
// `importance`: of each unit; larger is more important.
std::vector<double> proportional_ranks(const ArchSpace& space,
                                       const std::vector<double>& importance);

// Units drop by rising rank until all limits hold, floors kept; then those that still fit come
// back by falling rank. Ties go by number. Only units of `candidates` are left: with those of a
// larger budget, what is chosen for a smaller one is inside it. Kinds of unit that have under 0.5%
// of each limited cost stay whole: dropping them would save next to nothing. Branches that are gone
// do not come back.
// ConfigError where the limits are below what floors leave; it says what the least is.
Mask choose_units(const CostModel& costs, const std::vector<double>& ranks,
                  const std::vector<Limit>& limits, const Mask& candidates);

}  // namespace locus::search
