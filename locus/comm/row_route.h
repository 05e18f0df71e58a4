// Ways of rows between the ranks of a group. Each rank has home rows; spread() brings them to where
// they are needed, collect() brings what became of them back home: it is the adjoint of spread().
// Where spread() copies a row to several places, collect() sums over these places.
//
// H home rows, M rows that arrive, D row length, R ranks.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "locus/comm/courier.h"
#include "locus/comm/process_group.h"

namespace locus::comm {

// Rows that this rank hands to each rank of the group on one way, forwarded ones too; none to
// itself. Every rank gets at most one message of a stage.
using RowsSent = std::vector<int64_t>;

class RowRoute {
 public:
  virtual ~RowRoute() = default;

  // Both start and return. x_HD, y_MD: contiguous; all ranks call them in the same order.
  virtual std::unique_ptr<RowsInFlight> spread(const at::Tensor& x_HD) = 0;
  virtual std::unique_ptr<RowsInFlight> collect(const at::Tensor& y_MD) = 0;

  virtual RowsSent spread_rows() const = 0;
  virtual RowsSent collect_rows() const = 0;
};

// Of each rank, how many rows go to each.
class RowMatrix {
 public:
  explicit RowMatrix(int64_t num_ranks)
      : num_ranks_(num_ranks), rows_(static_cast<size_t>(num_ranks * num_ranks)) {}

  int64_t num_ranks() const { return num_ranks_; }
  int64_t& at(int64_t from, int64_t to) {
    return rows_[static_cast<size_t>(from * num_ranks_ + to)];
  }
  int64_t at(int64_t from, int64_t to) const {
    return rows_[static_cast<size_t>(from * num_ranks_ + to)];
  }
  std::vector<int64_t> sent_by(int64_t rank) const;      // [R]
  std::vector<int64_t> received_by(int64_t rank) const;  // [R]
  RowMatrix transposed() const;

 private:
  int64_t num_ranks_;
  std::vector<int64_t> rows_;
};

// Home rows lie by target rank, arriving ones by source rank; one all-to-all.
std::unique_ptr<RowRoute> make_flat_route(std::shared_ptr<ProcessGroup> group,
                                          std::vector<int64_t> sent_R,
                                          std::vector<int64_t> received_R);

// The ranks of a group by node and place on it; equally many on each node. Of rank (node a, place
// i): `node` holds (a, *) in order of places, `rail` holds (*, i) in order of nodes. Both groups
// are the courier's alone.
struct NodeGroups {
  std::shared_ptr<ProcessGroup> node, rail;  // null: one member
  std::shared_ptr<Courier> courier;
  int64_t num_nodes = 1, ranks_per_node = 1;
  int64_t own_node = 0, own_place = 0;
  std::vector<int64_t> rank_of;  // [node * ranks_per_node + place] -> rank of the group

  int64_t rank_at(int64_t node_index, int64_t place) const {
    return rank_of[static_cast<size_t>(node_index * ranks_per_node + place)];
  }
};

// As the flat route, in two stages: rows go to the rank of this node whose place is their target's,
// and from there, in one message to each node, to the target.
std::unique_ptr<RowRoute> make_hierarchical_route(NodeGroups groups, const RowMatrix& rows);

// A row crosses to a node once, to the rank of equal place, and is copied there to the ranks of
// that node that need it; on the way back their rows are summed first, in float32 or float64.
struct CopyPlan {
  std::vector<int64_t> sent_nodes, received_nodes;    // rows to and from the rail's ranks
  std::vector<int64_t> copied_row_P;                  // received row of each copy, by place
  std::vector<int64_t> sent_places, received_places;  // copies to and from the node's ranks
};
std::unique_ptr<RowRoute> make_dedup_route(NodeGroups groups, CopyPlan plan);

}  // namespace locus::comm
