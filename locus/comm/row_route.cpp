#include "locus/comm/row_route.h"

namespace locus::comm {

std::vector<int64_t> RowMatrix::sent_by(int64_t rank) const {
  std::vector<int64_t> rows;
  for (int64_t to = 0; to < num_ranks_; ++to) rows.push_back(at(rank, to));
  return rows;
}

std::vector<int64_t> RowMatrix::received_by(int64_t rank) const {
  std::vector<int64_t> rows;
  for (int64_t from = 0; from < num_ranks_; ++from) rows.push_back(at(from, rank));
  return rows;
}

RowMatrix RowMatrix::transposed() const {
  RowMatrix other(num_ranks_);
  for (int64_t from = 0; from < num_ranks_; ++from) {
    for (int64_t to = 0; to < num_ranks_; ++to) other.at(to, from) = at(from, to);
  }
  return other;
}

}  // namespace locus::comm
