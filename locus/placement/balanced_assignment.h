// The transport problem in small: items to places of limited room, at the least cost.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace locus::placement {

// N items, K places; the item i costs cost_NK[i * K + k] at place k. Place k takes room_K[k] items;
// together they take at least N. Returns the place of each item; their sum of costs is the least
// possible, up to rounding. The same input gives the same answer on every machine.
//
// Costs must be finite. Time: N log N + (items that find their best place full) * K^2.
std::vector<int64_t> balanced_assignment(std::span<const double> cost_NK,
                                         std::span<const int64_t> room_K);

}  // namespace locus::placement
