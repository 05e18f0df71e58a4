// Two stages: within the node by the target's place, then between the nodes among ranks of equal
// place. Of n nodes with m ranks each, a rank sends n - 1 messages between nodes instead of
// (n - 1) m, each m times as long. Rows come in the order of the flat route, so all sums are the
// same.
//
//   home rows            by target rank
//   packed for stage 1   by (place, node) of the target
//   after stage 1        by (place of the source, node of the target): all for ranks of this place
//   packed for stage 2   by (node of the target, place of the source)
//   after stage 2        by (node of the source, place of the source)
//   at their target      by source rank
#include <cstring>

#include "locus/base/error.h"
#include "locus/comm/routes/stage.h"
#include "locus/comm/row_route.h"

namespace locus::comm {
namespace {

// A run of rows that lie side by side before and after.
struct Block {
  int64_t from = 0, to = 0, num_rows = 0;
};
using Blocks = std::vector<Block>;

at::Tensor move_blocks(const at::Tensor& x_ND, const Blocks& blocks) {
  LOCUS_CHECK(x_ND.is_cpu(), "rows on {}", x_ND.device().str());
  const at::Tensor out_ND = empty_rows(x_ND.size(0), x_ND);
  const auto row_bytes =
      static_cast<size_t>(x_ND.element_size() * c10::multiply_integers(x_ND.sizes().slice(1)));
  const auto* source = static_cast<const char*>(x_ND.const_data_ptr());
  auto* target = static_cast<char*>(out_ND.mutable_data_ptr());
  for (const Block& block : blocks) {
    std::memcpy(target + static_cast<size_t>(block.to) * row_bytes,
                source + static_cast<size_t>(block.from) * row_bytes,
                static_cast<size_t>(block.num_rows) * row_bytes);
  }
  return out_ND;
}

// Begin of each run of a sequence of lengths.
std::vector<int64_t> begins(const std::vector<int64_t>& lengths) {
  std::vector<int64_t> out(lengths.size());
  std::exclusive_scan(lengths.begin(), lengths.end(), out.begin(), int64_t{0});
  return out;
}

// What one rank does on one way.
struct Schedule {
  Blocks pack_places, pack_nodes, unpack;
  std::vector<int64_t> sent_places, received_places;  // stage 1
  std::vector<int64_t> sent_nodes, received_nodes;    // stage 2
};

class Scheduler {
 public:
  Scheduler(const NodeGroups& groups, const RowMatrix& rows) : groups_(groups), rows_(rows) {}

  Schedule schedule() const {
    Schedule out;
    pack_for_places(out);
    pack_for_nodes(out);
    unpack(out);
    return out;
  }

 private:
  int64_t own_rank() const { return groups_.rank_at(groups_.own_node, groups_.own_place); }

  void pack_for_places(Schedule& out) const {
    const std::vector<int64_t> home = begins(rows_.sent_by(own_rank()));
    int64_t place = 0;
    for (int64_t j = 0; j < groups_.ranks_per_node; ++j) {
      int64_t sent = 0, received = 0;
      for (int64_t b = 0; b < groups_.num_nodes; ++b) {
        const int64_t target = groups_.rank_at(b, j);
        const int64_t num = rows_.at(own_rank(), target);
        out.pack_places.push_back({home[static_cast<size_t>(target)], place, num});
        place += num;
        sent += num;
        received +=
            rows_.at(groups_.rank_at(groups_.own_node, j), groups_.rank_at(b, groups_.own_place));
      }
      out.sent_places.push_back(sent);
      out.received_places.push_back(received);
    }
  }

  void pack_for_nodes(Schedule& out) const {
    std::vector<int64_t> arrived;  // by (place of the source, node of the target)
    for (int64_t i = 0; i < groups_.ranks_per_node; ++i) {
      for (int64_t b = 0; b < groups_.num_nodes; ++b) arrived.push_back(forwarded(i, b));
    }
    const std::vector<int64_t> begin = begins(arrived);
    int64_t place = 0;
    for (int64_t b = 0; b < groups_.num_nodes; ++b) {
      int64_t sent = 0;
      for (int64_t i = 0; i < groups_.ranks_per_node; ++i) {
        const int64_t num = forwarded(i, b);
        out.pack_nodes.push_back(
            {begin[static_cast<size_t>(i * groups_.num_nodes + b)], place, num});
        place += num;
        sent += num;
      }
      out.sent_nodes.push_back(sent);
    }
  }

  void unpack(Schedule& out) const {
    const std::vector<int64_t> final = begins(rows_.received_by(own_rank()));
    int64_t place = 0;
    for (int64_t a = 0; a < groups_.num_nodes; ++a) {
      int64_t received = 0;
      for (int64_t i = 0; i < groups_.ranks_per_node; ++i) {
        const int64_t source = groups_.rank_at(a, i);
        const int64_t num = rows_.at(source, own_rank());
        out.unpack.push_back({place, final[static_cast<size_t>(source)], num});
        place += num;
        received += num;
      }
      out.received_nodes.push_back(received);
    }
  }

  // Rows of this node's rank i that this rank takes on to node b.
  int64_t forwarded(int64_t i, int64_t b) const {
    return rows_.at(groups_.rank_at(groups_.own_node, i), groups_.rank_at(b, groups_.own_place));
  }

  const NodeGroups& groups_;
  const RowMatrix& rows_;
};

class HierarchicalRoute : public RowRoute {
 public:
  HierarchicalRoute(NodeGroups groups, const RowMatrix& rows)
      : groups_(std::make_shared<const NodeGroups>(std::move(groups))),
        there_(std::make_shared<const Schedule>(Scheduler(*groups_, rows).schedule())),
        back_(std::make_shared<const Schedule>(Scheduler(*groups_, rows.transposed()).schedule())) {
  }

  std::unique_ptr<RowsInFlight> spread(const at::Tensor& x_HD) override {
    return carry(x_HD, there_);
  }
  std::unique_ptr<RowsInFlight> collect(const at::Tensor& y_MD) override {
    return carry(y_MD, back_);
  }
  RowsSent spread_rows() const override { return rows_of(*there_); }
  RowsSent collect_rows() const override { return rows_of(*back_); }

 private:
  std::unique_ptr<RowsInFlight> carry(const at::Tensor& x_ND,
                                      std::shared_ptr<const Schedule> schedule) const {
    return groups_->courier->carry([node = groups_->node, rail = groups_->rail, x_ND, schedule] {
      const Schedule& way = *schedule;
      at::Tensor rows = move_blocks(x_ND, way.pack_places);
      rows = exchange_and_wait(node.get(), rows, way.sent_places, way.received_places);
      rows = move_blocks(rows, way.pack_nodes);
      rows = exchange_and_wait(rail.get(), rows, way.sent_nodes, way.received_nodes);
      return move_blocks(rows, way.unpack);
    });
  }

  RowsSent rows_of(const Schedule& way) const {
    RowsSent sent(groups_->rank_of.size());
    for (int64_t j = 0; j < groups_->ranks_per_node; ++j) {
      sent[static_cast<size_t>(groups_->rank_at(groups_->own_node, j))] +=
          way.sent_places[static_cast<size_t>(j)];
    }
    for (int64_t b = 0; b < groups_->num_nodes; ++b) {
      sent[static_cast<size_t>(groups_->rank_at(b, groups_->own_place))] +=
          way.sent_nodes[static_cast<size_t>(b)];
    }
    sent[static_cast<size_t>(groups_->rank_at(groups_->own_node, groups_->own_place))] = 0;
    return sent;
  }

  std::shared_ptr<const NodeGroups> groups_;
  std::shared_ptr<const Schedule> there_, back_;
};

}  // namespace

std::unique_ptr<RowRoute> make_hierarchical_route(NodeGroups groups, const RowMatrix& rows) {
  return std::make_unique<HierarchicalRoute>(std::move(groups), rows);
}

}  // namespace locus::comm
