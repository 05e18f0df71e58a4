#include "locus/moe/exchange_stats.h"

#include <ATen/ATen.h>

#include "locus/comm/collectives.h"

namespace locus::moe {

std::string_view direction_name(Direction direction) {
  switch (direction) {
    case Direction::kDispatch: return "dispatch";
    case Direction::kCombine: return "combine";
    case Direction::kCombineGradient: return "combine_gradient";
    case Direction::kDispatchGradient: return "dispatch_gradient";
  }
  return "";
}

DirectionStats ExchangeStats::total() const {
  DirectionStats sum;
  for (const DirectionStats& one : of) {
    sum.intra_bytes += one.intra_bytes;
    sum.inter_bytes += one.inter_bytes;
    sum.flight_s += one.flight_s;
    sum.exposed_s += one.exposed_s;
  }
  return sum;
}

SummedExchange sum_over(comm::ProcessGroup* world, const ExchangeStats& stats, int64_t ep_rank) {
  const size_t num_ranks = stats.sent_R.size();
  // Each rank fills in its own line of the matrix.
  std::vector<double> values;
  for (const DirectionStats& one : stats.of) {
    values.insert(values.end(), {one.intra_bytes, one.inter_bytes, one.flight_s, one.exposed_s});
  }
  values.insert(values.end(), {stats.inter_messages, stats.least_inter_bytes,
                               stats.flat_inter_bytes, stats.assigned_bytes, stats.plan_s});
  const size_t matrix = values.size();
  values.resize(matrix + num_ranks * num_ranks);
  for (size_t to = 0; to < num_ranks; ++to) {
    values[matrix + static_cast<size_t>(ep_rank) * num_ranks + to] = stats.sent_R[to];
  }
  const at::Tensor sum = comm::sum_over(world, at::tensor(values, at::kDouble));
  const auto ranks = static_cast<double>(world == nullptr ? 1 : world->size());
  SummedExchange out{stats, {}};
  const double* next = sum.const_data_ptr<double>();
  for (DirectionStats& one : out.stats.of) {
    one.intra_bytes = *next++;
    one.inter_bytes = *next++;
    one.flight_s = *next++ / ranks;
    one.exposed_s = *next++ / ranks;
  }
  out.stats.inter_messages = *next++;
  out.stats.least_inter_bytes = *next++;
  out.stats.flat_inter_bytes = *next++;
  out.stats.assigned_bytes = *next++;
  out.stats.plan_s = *next++ / ranks;
  for (size_t from = 0; from < num_ranks; ++from) {
    out.matrix_RR.emplace_back(next, next + num_ranks);
    next += num_ranks;
  }
  return out;
}

}  // namespace locus::moe
