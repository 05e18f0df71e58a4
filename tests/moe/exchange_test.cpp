// Every exchange computes what one rank that has all experts computes: outputs and gradients, for
// uneven routings, ranks without tokens and experts without rows.
#include "locus/moe/exchange.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <set>

#include "locus/base/error.h"
#include "locus/comm/collectives.h"
#include "locus/comm/thread_ranks.h"
#include "locus/moe/dispatcher.h"
#include "locus/moe/exchange_choice.h"
#include "tests/support/expect_error.h"
#include "tests/support/tensors.h"

namespace locus::moe {
namespace {

using test::random_tensor;

constexpr int64_t kHidden = 6, kWidth = 4;

struct Case {
  std::string exchange;
  int64_t ranks, ranks_per_node, chunks, experts_per_rank;
  bool across = false;
};

std::vector<Case> cases() {
  std::vector<Case> out;
  for (const ExchangeEntry& entry : exchange_entries()) {
    for (const int64_t chunks : {1, 2, 3}) {
      for (const auto& [ranks, per_node] : std::vector<std::pair<int64_t, int64_t>>{
               {1, 1}, {2, 1}, {2, 2}, {3, 1}, {4, 2}, {5, 1}, {6, 3}, {7, 7}, {8, 2}}) {
        if (ranks == 1 || (entry.needs_nodes && ranks == per_node)) continue;
        out.push_back({std::string(entry.name), ranks, per_node, chunks, 2});
      }
    }
    out.push_back({std::string(entry.name), 4, 2, 2, 3, true});
    out.push_back({std::string(entry.name), 4, 2, 2, 1});
  }
  return out;
}

class EveryExchange : public testing::TestWithParam<Case> {};

INSTANTIATE_TEST_SUITE_P(All, EveryExchange, testing::ValuesIn(cases()), [](const auto& one) {
  const Case& c = one.param;
  return c.exchange + "_" + std::to_string(c.ranks) + "ranks_" + std::to_string(c.ranks_per_node) +
         "a_node_" + std::to_string(c.chunks) + "parts_" + std::to_string(c.experts_per_rank) +
         "experts" + (c.across ? "_across" : "");
});

comm::ParallelConfig config_of(const Case& c) {
  comm::ParallelConfig config;
  config.expert_model_parallel_size = c.ranks;
  config.exchange = {c.exchange, c.chunks, "auto"};
  // Across: two groups that share the nodes.
  config.ranks_per_node = c.ranks_per_node * (c.across ? 2 : 1);
  config.ep_placement = c.across ? "across_nodes" : "within_node";
  return config;
}

// Tokens of a rank; rank 1 of three and more has none.
int64_t tokens_of(int64_t rank, int64_t ranks) {
  return ranks >= 3 && rank == 1 ? 0 : 5 + (rank * 3) % 4;
}

// Up to three different experts a token, some none; none ever takes the last expert but one.
Routing routing_of(int64_t rank, int64_t num_tokens, int64_t num_experts) {
  std::vector<int64_t> token, expert;
  for (int64_t t = 0; t < num_tokens; ++t) {
    std::set<int64_t> chosen;
    for (int64_t k = 0; k < (t + rank) % 4; ++k) {
      const int64_t e = (t * 5 + k * 3 + rank * 7 + k * k) % num_experts;
      if (e != num_experts - 2 || num_experts < 4) chosen.insert(e);
    }
    // Best first is not in order of experts.
    for (auto e = chosen.rbegin(); e != chosen.rend(); ++e) {
      token.push_back(t);
      expert.push_back(*e);
    }
  }
  Routing routing;
  const auto n = static_cast<int64_t>(token.size());
  routing.assignment.token_N = test::integers(token);
  routing.assignment.expert_N = test::integers(expert);
  routing.weight_N = random_tensor({n}, static_cast<uint64_t>(100 + rank)).set_requires_grad(true);
  return routing;
}

// All experts, or those of one rank, with the same weights in both.
std::shared_ptr<Experts> experts_of(int64_t first, int64_t num, int64_t num_experts) {
  auto experts =
      std::make_shared<Experts>(num, kHidden, kWidth, ops::Activation::kSwiglu, true, "grouped");
  const at::NoGradGuard no_grad;
  uint64_t seed = 7;
  for (at::Tensor& parameter : experts->parameters()) {
    std::vector<int64_t> shape = parameter.sizes().vec();
    shape[0] = num_experts;
    parameter.set_data(random_tensor(shape, seed++).narrow(0, first, num).clone());
  }
  return experts;
}

at::Tensor input_of(int64_t rank, int64_t num_tokens) {
  return random_tensor({num_tokens, kHidden}, static_cast<uint64_t>(200 + rank))
      .set_requires_grad(true);
}

struct Result {
  at::Tensor y, dx, dweight;
  std::vector<at::Tensor> dexperts;
};

Result run(Dispatcher& dispatcher, const Experts& experts, int64_t rank, int64_t num_tokens,
           int64_t num_experts) {
  Routing routing = routing_of(rank, num_tokens, num_experts);
  const at::Tensor x = input_of(rank, num_tokens);
  const at::Tensor y = dispatcher.dispatch(x, routing)->combine(experts);
  // Some gradient that differs from row to row.
  (y * random_tensor(y.sizes(), static_cast<uint64_t>(300 + rank))).sum().backward();
  Result result{y.detach(), x.grad(), routing.weight_N.grad(), {}};
  for (const at::Tensor& parameter : experts.parameters()) {
    result.dexperts.push_back(parameter.grad().defined() ? parameter.grad().clone()
                                                         : at::zeros_like(parameter));
  }
  return result;
}

double apart(const at::Tensor& a, const at::Tensor& b) {
  return a.numel() == 0 ? 0 : (a - b).abs().max().item<double>();
}

TEST_P(EveryExchange, ComputesWhatOneRankComputes) {
  const Case& c = GetParam();
  const int64_t num_experts = c.ranks * c.experts_per_rank;
  comm::run_thread_ranks(c.ranks * (c.across ? 2 : 1), config_of(c), [&](const auto& context) {
    const auto dispatcher = make_exchange_dispatcher(num_experts, context);
    const auto own_experts =
        experts_of(context.ep_rank * c.experts_per_rank, c.experts_per_rank, num_experts);
    const int64_t rank = context.ep_rank;
    const int64_t num_tokens = tokens_of(rank, c.ranks);
    const Result found = run(*dispatcher, *own_experts, rank, num_tokens, num_experts);

    const auto alone = make_local_dispatcher(num_experts);
    const auto all_experts = experts_of(0, num_experts, num_experts);
    std::vector<at::Tensor> dexperts;
    for (int64_t r = 0; r < c.ranks; ++r) {
      const Result expected = run(*alone, *all_experts, r, tokens_of(r, c.ranks), num_experts);
      dexperts = expected.dexperts;  // added up from rank to rank
      if (r != rank) continue;
      EXPECT_LT(apart(found.y, expected.y), 1e-12);
      EXPECT_LT(apart(found.dx, expected.dx), 1e-12);
      EXPECT_LT(apart(found.dweight, expected.dweight), 1e-12);
    }
    for (size_t i = 0; i < dexperts.size(); ++i) {
      const at::Tensor expected =
          dexperts[i].narrow(0, context.ep_rank * c.experts_per_rank, c.experts_per_rank);
      EXPECT_LT(apart(found.dexperts[i], expected), 1e-11) << i;
    }
  });
}

TEST_P(EveryExchange, CountsTheBytesThatItSends) {
  const Case& c = GetParam();
  const int64_t num_experts = c.ranks * c.experts_per_rank;
  comm::run_thread_ranks(c.ranks * (c.across ? 2 : 1), config_of(c), [&](const auto& context) {
    const auto dispatcher = make_exchange_dispatcher(num_experts, context);
    const auto stats = std::make_shared<ExchangeStats>();
    dispatcher->count_in(stats);
    const auto experts =
        experts_of(context.ep_rank * c.experts_per_rank, c.experts_per_rank, num_experts);
    run(*dispatcher, *experts, context.ep_rank, tokens_of(context.ep_rank, c.ranks), num_experts);
    const SummedExchange sum = sum_over(context.ep.get(), *stats, context.ep_rank);
    // What goes there comes back, and the gradients take the same ways.
    const auto& of = sum.stats.of;
    for (const Direction direction :
         {Direction::kCombine, Direction::kCombineGradient, Direction::kDispatchGradient}) {
      EXPECT_EQ(of[static_cast<int>(direction)].inter_bytes, of[0].inter_bytes);
      EXPECT_EQ(of[static_cast<int>(direction)].intra_bytes, of[0].intra_bytes);
    }
    double in_matrix = 0;
    for (const auto& line : sum.matrix_RR) {
      for (const double bytes : line) in_matrix += bytes;
    }
    EXPECT_EQ(in_matrix, 4 * (of[0].inter_bytes + of[0].intra_bytes));
    EXPECT_LE(sum.stats.least_inter_bytes, sum.stats.flat_inter_bytes);
    if (c.exchange == "dedup") {
      EXPECT_EQ(4 * of[0].inter_bytes, sum.stats.least_inter_bytes) << "more than the least";
    } else {
      EXPECT_EQ(4 * of[0].inter_bytes, sum.stats.flat_inter_bytes);
    }
  });
}

// Bit for bit, in float32: the order of all sums is the same.
TEST(Exchanges, HierarchicalChangesNoBit) {
  std::vector<Result> results(2 * 4);
  for (const auto& [exchange, chunks, place] :
       {std::tuple("flat", int64_t{1}, 0), std::tuple("hierarchical", int64_t{1}, 1)}) {
    const Case c{exchange, 4, 2, chunks, 2};
    comm::run_thread_ranks(4, config_of(c), [&, place = place](const auto& context) {
      const auto dispatcher = make_exchange_dispatcher(8, context);
      const auto experts = experts_of(context.ep_rank * 2, 2, 8);
      for (at::Tensor& parameter : experts->parameters()) {
        parameter.set_data(parameter.detach().to(at::kFloat));
      }
      Routing routing = routing_of(context.ep_rank, 7, 8);
      const at::Tensor x =
          input_of(context.ep_rank, 7).detach().to(at::kFloat).set_requires_grad(true);
      const at::Tensor y = dispatcher->dispatch(x, routing)->combine(*experts);
      y.sum().backward();
      results[static_cast<size_t>(place * 4 + context.ep_rank)] = {
          y.detach(), x.grad(), routing.weight_N.grad(), {}};
    });
  }
  for (size_t rank = 0; rank < 4; ++rank) {
    EXPECT_TRUE(at::equal(results[rank].y, results[4 + rank].y));
    EXPECT_TRUE(at::equal(results[rank].dx, results[4 + rank].dx));
    EXPECT_TRUE(at::equal(results[rank].dweight, results[4 + rank].dweight));
  }
}

TEST(Exchanges, CountTravelsOnceAndIsReusedInAReplay) {
  comm::run_thread_ranks(2, config_of({"flat", 2, 1, 1, 2}), [](const auto& context) {
    const auto dispatcher = make_exchange_dispatcher(4, context);
    Routing routing = routing_of(context.ep_rank, 6, 4);
    const at::Tensor x = input_of(context.ep_rank, 6);
    const auto experts = experts_of(context.ep_rank * 2, 2, 4);
    const at::Tensor y = dispatcher->dispatch(x, routing)->combine(*experts);
    const auto plan = routing.assignment.plan;
    ASSERT_NE(plan, nullptr);
    EXPECT_TRUE(at::equal(dispatcher->dispatch(x, routing)->combine(*experts), y));
    EXPECT_EQ(routing.assignment.plan, plan);
  });
}

TEST(Exchanges, OfNodesAreRefusedOnOneNode) {
  comm::run_thread_ranks(2, config_of({"hierarchical", 2, 2, 1, 2}), [](const auto& context) {
    const std::string error =
        test::error_of<ConfigError>([&] { make_exchange_dispatcher(4, context); });
    EXPECT_NE(error.find("\"hierarchical\" needs"), std::string::npos) << error;
  });
  EXPECT_NE(test::error_of<ConfigError>([] { find_exchange("flt"); }).find("known: auto, flat"),
            std::string::npos);
}

TEST(Exchanges, EveryLeafHasARow) {
  const auto folder = std::filesystem::path(__FILE__).parent_path() / "../../locus/moe/exchanges";
  std::set<std::string> files, rows;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    files.insert(entry.path().stem().string());
  }
  for (const std::string& name : exchange_names()) rows.insert(name);
  EXPECT_EQ(files, rows);
}

comm::ParallelContext eight_ranks_on_four_nodes() {
  comm::ParallelContext context;
  context.world_size = context.ep_size = 8;
  auto nodes = std::make_shared<comm::NodeGroups>();
  nodes->num_nodes = 4;
  nodes->ranks_per_node = 2;
  context.ep_nodes = nodes;
  context.topology.inter_node = {50e-6, 12e6, {}};
  context.topology.intra_node = {10e-6, 3e9, {}};
  return context;
}

TEST(ExchangeChoice, FollowsTheLinksAndTheLoad) {
  const ExchangeLoad many{16, 4, 2048, 1024, 2e10, 50e9};
  comm::ParallelContext context = eight_ranks_on_four_nodes();
  // Four experts a token on four nodes, a slow link: half of the rows need not cross.
  EXPECT_EQ(choose_exchange(context, many).type, "dedup");
  EXPECT_GT(choose_exchange(context, many).chunks, 1);
  // One expert a token, nothing to hide behind: two stages cost a stage more.
  const ExchangeLoad one{16, 1, 2048, 1024, 1e9, 0};
  EXPECT_EQ(choose_exchange(context, one).type, "flat");
  // Fast links and wide experts: more parts than a rank has experts would pack weights for nothing.
  comm::ParallelContext fast = eight_ranks_on_four_nodes();
  fast.topology.inter_node = {1e-6, 1e9, {}};
  const ExchangeLoad wide{16, 4, 256, 512, 6e9, 50e9};
  EXPECT_LE(choose_exchange(fast, wide).chunks, 2);
  // Slow ones: more parts pay, where each has experts of its own.
  fast.topology.inter_node = {1e-6, 5e6, {}};
  const ExchangeLoad many_experts{64, 4, 256, 512, 6e9, 50e9};
  EXPECT_GT(choose_exchange(fast, many_experts).chunks, 2);
  // Nine rows of ten stay on their node: what is left is not worth a second part.
  ExchangeLoad near{16, 1, 2048, 512, 8e8, 8e9};
  comm::ParallelContext slow = eight_ranks_on_four_nodes();
  slow.topology.inter_node = {2.5e-3, 18e6, {}};
  slow.topology.intra_node = {1.4e-3, 565e6, {}};
  EXPECT_EQ(choose_exchange(slow, near).chunks, 2);
  near.near_share = 0.9;
  EXPECT_EQ(choose_exchange(slow, near).chunks, 1);
  // Few tokens: messages count.
  const ExchangeLoad few{16, 1, 2, 64, 1e3, 50e9};
  EXPECT_EQ(choose_exchange(context, few).type, "hierarchical");
  EXPECT_EQ(choose_exchange(context, few).chunks, 1);
  // What is set stays.
  context.exchange = {"flat", 2, "auto"};
  EXPECT_EQ(choose_exchange(context, few).type, "flat");
  EXPECT_EQ(choose_exchange(context, few).chunks, 2);
  // One node.
  context = eight_ranks_on_four_nodes();
  context.ep_nodes = nullptr;
  EXPECT_EQ(choose_exchange(context, many).type, "flat");
}

}  // namespace
}  // namespace locus::moe
