// A token crosses to a node once, however many of its experts are there: to the rank of this one's
// place, which copies it to the ranks that need it, once each. An expert's rank multiplies by the
// weights and sums what belongs to one token; the node sums over its ranks; one row comes back.
//
// Beside the rows travel 8 bytes for each (token, node): which ranks need it; and 8 + 4 (8 in
// float64) bytes for each assignment: which arriving row it is of, and its weight. The former two
// go once per layer and step, the weights and their gradients once each way.
//
// Sums are made in another order than flat's: results differ by rounding (1e-6 in float32).
#include <ATen/ATen.h>

#include <numeric>

#include "locus/base/error.h"
#include "locus/moe/assignment_rows.h"

namespace locus::moe {
namespace {

using Index = std::vector<int64_t>;

class DedupPlanner {
 public:
  DedupPlanner(const ExpertMap& map, const PartAssignments& part, const PartCounts& counts)
      : map_(map), part_(part), counts_(counts), nodes_(*map.nodes) {
    LOCUS_CHECK(nodes_.ranks_per_node <= kMostRanksPerNodeOfDedup,
                "{} ranks of a group on one node", nodes_.ranks_per_node);
    find_home_rows();
  }

  ExchangePart plan() const {
    ExchangePart out;
    const comm::RowMatrix rows = assignment_matrix(map_, counts_);
    const Index sent = rows.sent_by(own()), received = rows.received_by(own());
    // Which row an assignment is of travels while the nodes' ranks tell one another who needs what.
    out.weight_route = comm::make_flat_route(map_.group, sent, received);
    const at::Tensor own_rows = index_tensor(row_A_);
    const auto rows_under_way = out.weight_route->spread(own_rows);
    out.token_H = index_tensor(token_H_);
    out.route = comm::make_dedup_route(nodes_, copy_plan());
    out.num_arriving = 0;
    for (int64_t from = 0; from < map_.num_ranks(); ++from) {
      out.num_arriving += counts_.tokens.at(from, own());
    }
    out.assignment_A = index_tensor(part_.place_A);
    const Index arrival_M = arrival_of_expert_rows(map_, part_, counts_);
    out.weight_place_M = index_tensor(arrival_M);
    const Index row_A = arriving_rows(rows_under_way->wait(), received);
    Index place_M;
    for (const int64_t a : arrival_M) place_M.push_back(row_A[static_cast<size_t>(a)]);
    out.place_M = index_tensor(place_M);
    out.counts_E = expert_counts(map_, part_, counts_);
    return out;
  }

 private:
  int64_t own() const { return map_.group->rank(); }

  // Home rows by (node, token); for each assignment, the how many-th row it is of those that its
  // expert's rank gets from here.
  void find_home_rows() {
    const auto num_tokens = static_cast<size_t>(part_.num_tokens);
    row_A_.resize(part_.token_A.size());
    // Assignments of each rank are a run, since they are sorted by expert.
    Index first(static_cast<size_t>(map_.num_ranks()) + 1);
    for (const int64_t expert : part_.expert_A)
      ++first[static_cast<size_t>(map_.rank_of(expert)) + 1];
    std::partial_sum(first.begin(), first.end(), first.begin());
    for (int64_t node = 0; node < nodes_.num_nodes; ++node) {
      Index mask_T(num_tokens);
      for_each_run(node, first, [&](int64_t place, size_t a) {
        mask_T[static_cast<size_t>(part_.token_A[a])] |= int64_t{1} << place;
      });
      std::vector<Index> number_PT(static_cast<size_t>(nodes_.ranks_per_node), Index(num_tokens));
      Index next(number_PT.size());
      for (size_t t = 0; t < num_tokens; ++t) {
        if (mask_T[t] == 0) continue;
        token_H_.push_back(static_cast<int64_t>(t));
        mask_H_.push_back(mask_T[t]);
        for (size_t place = 0; place < next.size(); ++place) {
          if (mask_T[t] >> place & 1) number_PT[place][t] = next[place]++;
        }
      }
      for_each_run(node, first, [&](int64_t place, size_t a) {
        row_A_[a] = number_PT[static_cast<size_t>(place)][static_cast<size_t>(part_.token_A[a])];
      });
    }
  }

  template <class Visit>
  void for_each_run(int64_t node, const Index& first, Visit visit) const {
    for (int64_t place = 0; place < nodes_.ranks_per_node; ++place) {
      const auto rank = static_cast<size_t>(nodes_.rank_at(node, place));
      for (auto a = static_cast<size_t>(first[rank]); a < static_cast<size_t>(first[rank + 1]); ++a)
        visit(place, a);
    }
  }

  comm::CopyPlan copy_plan() const {
    comm::CopyPlan plan;
    for (int64_t node = 0; node < nodes_.num_nodes; ++node) {
      plan.sent_nodes.push_back(counts_.node_tokens(own(), node));
      plan.received_nodes.push_back(
          counts_.node_tokens(nodes_.rank_at(node, nodes_.own_place), nodes_.own_node));
    }
    const Index mask = exchange_masks(plan);
    for (int64_t place = 0; place < nodes_.ranks_per_node; ++place) {
      const size_t before = plan.copied_row_P.size();
      for (size_t row = 0; row < mask.size(); ++row) {
        if (mask[row] >> place & 1) plan.copied_row_P.push_back(static_cast<int64_t>(row));
      }
      plan.sent_places.push_back(static_cast<int64_t>(plan.copied_row_P.size() - before));
      int64_t received = 0;  // of the rank of this place, which takes in its rail's rows
      for (int64_t node = 0; node < nodes_.num_nodes; ++node) {
        received += counts_.tokens.at(nodes_.rank_at(node, place), own());
      }
      plan.received_places.push_back(received);
    }
    return plan;
  }

  // Of the rows that this rank takes in for its node.
  Index exchange_masks(const comm::CopyPlan& plan) const {
    const at::Tensor mask = index_tensor(mask_H_);
    const auto route = comm::make_flat_route(nodes_.rail, plan.sent_nodes, plan.received_nodes);
    // By the courier, whose group it is.
    const at::Tensor arrived =
        nodes_.courier->carry([&] { return route->spread(mask)->wait(); })->wait();
    const auto* first = arrived.const_data_ptr<int64_t>();
    return {first, first + arrived.numel()};
  }

  // The arriving row of each arriving assignment, from its place among those of its source. Rows
  // arrive by (place, node) of their source.
  Index arriving_rows(const at::Tensor& arrived, const Index& received) const {
    const auto* row = arrived.const_data_ptr<int64_t>();
    Index begin(static_cast<size_t>(map_.num_ranks()));
    int64_t next = 0;
    for (int64_t place = 0; place < nodes_.ranks_per_node; ++place) {
      for (int64_t node = 0; node < nodes_.num_nodes; ++node) {
        const int64_t source = nodes_.rank_at(node, place);
        begin[static_cast<size_t>(source)] = next;
        next += counts_.tokens.at(source, own());
      }
    }
    Index out;
    for (size_t rank = 0; rank < received.size(); ++rank) {
      for (int64_t i = 0; i < received[rank]; ++i) out.push_back(begin[rank] + *row++);
    }
    return out;
  }

  const ExpertMap& map_;
  const PartAssignments& part_;
  const PartCounts& counts_;
  const comm::NodeGroups& nodes_;
  Index token_H_;
  Index mask_H_;  // which ranks of a node need the row; bit i for the rank of place i
  Index row_A_;
};

}  // namespace

ExchangePart make_dedup_part(const ExpertMap& map, const PartAssignments& part,
                             const PartCounts& counts) {
  return DedupPlanner(map, part, counts).plan();
}

}  // namespace locus::moe
