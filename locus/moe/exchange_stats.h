// What a layer's exchanges of token rows cost: bytes by direction and kind of link, and time.
//
// R ranks of the expert-parallel group.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "locus/comm/process_group.h"

namespace locus::moe {

// The ways of a step: rows to the experts, their outputs back, and the gradients of both.
enum class Direction { kDispatch, kCombine, kCombineGradient, kDispatchGradient };
constexpr int kNumDirections = 4;
std::string_view direction_name(Direction direction);

struct DirectionStats {
  double intra_bytes = 0, inter_bytes = 0;  // sent within and between nodes
  double flight_s = 0;                      // from setting off until taken
  double exposed_s = 0;                     // waited for
};

struct ExchangeStats {
  DirectionStats of[kNumDirections];
  double inter_messages = 0;     // on the way to the experts
  double least_inter_bytes = 0;  // of all ways: each token once for each other node that needs it
  double flat_inter_bytes = 0;   // of all ways: a row for every assignment
  double assigned_bytes = 0;     // the same, wherever the expert is
  double plan_s = 0;             // counting, and telling the others
  std::vector<double> sent_R;    // bytes of all directions to each rank of the group

  DirectionStats total() const;
};

// Over the ranks of the expert-parallel group and of all of them: seconds are means over ranks, all
// else sums; sent of rank r becomes line r of `matrix_RR` (summed over groups).
struct SummedExchange {
  ExchangeStats stats;
  std::vector<std::vector<double>> matrix_RR;
};
SummedExchange sum_over(comm::ProcessGroup* world, const ExchangeStats& stats, int64_t ep_rank);

}  // namespace locus::moe
