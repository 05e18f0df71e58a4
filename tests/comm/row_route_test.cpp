#include "locus/comm/row_route.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <numeric>

#include "locus/comm/collectives.h"
#include "locus/comm/flight.h"
#include "locus/comm/thread_ranks.h"

namespace locus::comm {
namespace {

struct World {
  int64_t ranks, ranks_per_node;
  bool across;
};

void PrintTo(const World& world, std::ostream* out) {
  *out << world.ranks << " ranks, " << world.ranks_per_node << " a node"
       << (world.across ? ", across" : "");
}

class RowRoutes : public testing::TestWithParam<World> {
 protected:
  void on_ranks(const std::function<void(const ParallelContext&)>& rank) {
    ParallelConfig config;
    // Across nodes: two groups, whose ranks are not neighbours.
    const int64_t groups = GetParam().across ? 2 : 1;
    config.expert_model_parallel_size = GetParam().ranks;
    config.ep_placement = GetParam().across ? "across_nodes" : "within_node";
    config.ranks_per_node = GetParam().ranks_per_node * groups;
    run_thread_ranks(GetParam().ranks * groups, config, rank);
  }

  // Uneven, with ranks that send or get nothing.
  RowMatrix matrix() const {
    RowMatrix rows(GetParam().ranks);
    for (int64_t from = 0; from < rows.num_ranks(); ++from) {
      for (int64_t to = 0; to < rows.num_ranks(); ++to) {
        rows.at(from, to) = from == 1 ? 0 : (from + 2 * to + from * to) % 4;
      }
    }
    return rows;
  }
};

INSTANTIATE_TEST_SUITE_P(Worlds, RowRoutes,
                         testing::Values(World{2, 1, false}, World{4, 2, false}, World{6, 2, false},
                                         World{6, 3, false}, World{8, 2, false}, World{4, 2, true},
                                         World{3, 1, true}));

int64_t sum(const std::vector<int64_t>& numbers) {
  return std::accumulate(numbers.begin(), numbers.end(), int64_t{0});
}

// Rows that say where they come from.
at::Tensor home_rows(const ParallelContext& context, int64_t num_rows) {
  return at::arange(2 * num_rows, at::kDouble).view({num_rows, 2}) +
         1000.0 * static_cast<double>(context.ep_rank + 1);
}

TEST_P(RowRoutes, HierarchicalBringsWhatFlatBringsAndBack) {
  const RowMatrix rows = matrix();
  on_ranks([&](const ParallelContext& context) {
    ASSERT_NE(context.ep_nodes, nullptr);
    const std::vector<int64_t> sent = rows.sent_by(context.ep_rank);
    const auto flat = make_flat_route(context.ep, sent, rows.received_by(context.ep_rank));
    const auto staged = make_hierarchical_route(*context.ep_nodes, rows);
    const at::Tensor x = home_rows(context, sum(sent));
    const at::Tensor there = flat->spread(x)->wait();
    EXPECT_TRUE(at::equal(staged->spread(x)->wait(), there));
    EXPECT_TRUE(at::equal(staged->collect(there)->wait(), x));
    EXPECT_TRUE(at::equal(flat->collect(there)->wait(), x));
  });
}

TEST_P(RowRoutes, HierarchicalSendsOneMessageToEachOtherNode) {
  RowMatrix rows(GetParam().ranks);
  for (int64_t from = 0; from < rows.num_ranks(); ++from) {
    for (int64_t to = 0; to < rows.num_ranks(); ++to) rows.at(from, to) = 1;
  }
  on_ranks([&](const ParallelContext& context) {
    const NodeGroups& nodes = *context.ep_nodes;
    const auto messages = [&](const RowRoute& route) {
      const RowsSent sent = route.spread_rows();
      int64_t count = 0;
      for (size_t r = 0; r < sent.size(); ++r) {
        count += context.ep_node_of[r] != nodes.own_node && sent[r] > 0;
      }
      return count;
    };
    const auto flat = make_flat_route(context.ep, rows.sent_by(context.ep_rank),
                                      rows.received_by(context.ep_rank));
    const auto staged = make_hierarchical_route(nodes, rows);
    EXPECT_EQ(messages(*staged), nodes.num_nodes - 1);
    EXPECT_EQ(messages(*flat), messages(*staged) * nodes.ranks_per_node);
  });
}

TEST_P(RowRoutes, DedupCopiesOnTheNodeAndSumsTheCopies) {
  on_ranks([&](const ParallelContext& context) {
    const NodeGroups& nodes = *context.ep_nodes;
    // Every rank sends two rows to every node, and every rank of a node needs both of them.
    CopyPlan plan;
    plan.sent_nodes.assign(static_cast<size_t>(nodes.num_nodes), 2);
    plan.received_nodes = plan.sent_nodes;
    const int64_t taken = 2 * nodes.num_nodes;
    for (int64_t place = 0; place < nodes.ranks_per_node; ++place) {
      for (int64_t row = 0; row < taken; ++row) plan.copied_row_P.push_back(row);
      plan.sent_places.push_back(taken);
      plan.received_places.push_back(taken);
    }
    const auto route = make_dedup_route(nodes, plan);
    const at::Tensor x = home_rows(context, 2 * nodes.num_nodes);
    const at::Tensor there = route->spread(x)->wait();
    EXPECT_EQ(there.size(0), taken * nodes.ranks_per_node);
    const at::Tensor all = gather_rows(context.ep.get(), x).all;
    const double own_first = 2.0 * 2 * static_cast<double>(nodes.own_node);
    // From the rank of place p on node a comes its pair of rows for this node.
    for (int64_t place = 0; place < nodes.ranks_per_node; ++place) {
      for (int64_t node = 0; node < nodes.num_nodes; ++node) {
        const auto source = static_cast<double>(nodes.rank_at(node, place));
        EXPECT_EQ(there[(place * nodes.num_nodes + node) * 2][0].item<double>(),
                  own_first + 1000 * (source + 1));
      }
    }
    const at::Tensor back = route->collect(there)->wait();
    EXPECT_TRUE(at::equal(back, x * static_cast<double>(nodes.ranks_per_node)));
  });
}

TEST_P(RowRoutes, FlightsHaveTheGradientOfTheWayBack) {
  const RowMatrix rows = matrix();
  on_ranks([&](const ParallelContext& context) {
    const std::vector<int64_t> sent = rows.sent_by(context.ep_rank);
    const std::shared_ptr<RowRoute> route = make_hierarchical_route(*context.ep_nodes, rows);
    const at::Tensor x = home_rows(context, sum(sent)).requires_grad_();
    int told = 0;
    const auto count = [&](const FlightTimes& times) {
      ++told;
      EXPECT_GE(times.flight_s, times.waited_s);
    };
    const FlightLog log{count, nullptr, "", -1};
    Flight there(route, Way::kSpread, x, std::nullopt, log);
    at::Tensor y = there.land();
    Flight back(route, Way::kCollect, y * y, std::nullopt, log);
    const at::Tensor z = back.land();
    EXPECT_TRUE(at::equal(z, x * x));
    z.sum().backward();
    EXPECT_TRUE(at::equal(x.grad(), 2 * x));
    EXPECT_EQ(told, 4);
  });
}

TEST_P(RowRoutes, FlightsCarryTheWiresType) {
  const RowMatrix rows = matrix();
  on_ranks([&](const ParallelContext& context) {
    const std::shared_ptr<RowRoute> route = make_hierarchical_route(*context.ep_nodes, rows);
    const at::Tensor x = at::rand({sum(rows.sent_by(context.ep_rank)), 3}).requires_grad_();
    Flight there(route, Way::kSpread, x, at::kBFloat16, {});
    Flight back(route, Way::kCollect, there.land(), at::kBFloat16, {});
    const at::Tensor z = back.land();
    EXPECT_EQ(z.scalar_type(), at::kFloat);
    EXPECT_TRUE(at::equal(z, x.to(at::kBFloat16).to(at::kFloat)));
  });
}

}  // namespace
}  // namespace locus::comm
