#include "locus/moe/assignment_rows.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>

namespace locus::moe {

comm::RowMatrix assignment_matrix(const ExpertMap& map, const PartCounts& counts) {
  comm::RowMatrix rows(map.num_ranks());
  for (int64_t from = 0; from < map.num_ranks(); ++from) {
    for (int64_t expert = 0; expert < map.num_experts; ++expert) {
      rows.at(from, map.rank_of(expert)) += counts.assignments(from, expert);
    }
  }
  return rows;
}

std::vector<int64_t> expert_counts(const ExpertMap& map, const PartAssignments& part,
                                   const PartCounts& counts) {
  const int64_t first = map.group->rank() * map.experts_per_rank() + part.first_expert;
  std::vector<int64_t> counts_E(static_cast<size_t>(part.num_experts));
  for (int64_t e = 0; e < part.num_experts; ++e) {
    for (int64_t rank = 0; rank < map.num_ranks(); ++rank) {
      counts_E[static_cast<size_t>(e)] += counts.assignments(rank, first + e);
    }
  }
  return counts_E;
}

std::vector<int64_t> arrival_of_expert_rows(const ExpertMap& map, const PartAssignments& part,
                                            const PartCounts& counts) {
  const int64_t first = map.group->rank() * map.experts_per_rank() + part.first_expert;
  const auto cell = [&](int64_t rank, int64_t e) {
    return static_cast<size_t>(rank * part.num_experts + e);
  };
  std::vector<int64_t> begin(static_cast<size_t>(map.num_ranks() * part.num_experts));
  int64_t next = 0;
  for (int64_t rank = 0; rank < map.num_ranks(); ++rank) {
    for (int64_t e = 0; e < part.num_experts; ++e) {
      begin[cell(rank, e)] = next;
      next += counts.assignments(rank, first + e);
    }
  }
  std::vector<int64_t> arrival_M;
  arrival_M.reserve(static_cast<size_t>(next));
  for (int64_t e = 0; e < part.num_experts; ++e) {
    for (int64_t rank = 0; rank < map.num_ranks(); ++rank) {
      for (int64_t i = 0; i < counts.assignments(rank, first + e); ++i) {
        arrival_M.push_back(begin[cell(rank, e)] + i);
      }
    }
  }
  return arrival_M;
}

at::Tensor index_tensor(const std::vector<int64_t>& index) {
  const at::Tensor out = at::empty({static_cast<int64_t>(index.size())}, at::kLong);
  std::copy(index.begin(), index.end(), out.mutable_data_ptr<int64_t>());
  return out;
}

ExchangePart make_assignment_part(const ExpertMap& map, const PartAssignments& part,
                                  const PartCounts& counts) {
  ExchangePart out;
  out.token_H = index_tensor(part.token_A);
  out.assignment_H = index_tensor(part.place_A);
  const std::vector<int64_t> arrival_M = arrival_of_expert_rows(map, part, counts);
  std::vector<int64_t> back_M(arrival_M.size());
  for (size_t m = 0; m < arrival_M.size(); ++m) {
    back_M[static_cast<size_t>(arrival_M[m])] = static_cast<int64_t>(m);
  }
  out.place_M = index_tensor(arrival_M);
  out.back_M = index_tensor(back_M);
  out.counts_E = expert_counts(map, part, counts);
  out.num_arriving = static_cast<int64_t>(arrival_M.size());
  return out;
}

}  // namespace locus::moe
