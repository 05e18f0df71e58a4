#include "locus/app/exchange_settings.h"

#include <gtest/gtest.h>

#include "locus/base/error.h"
#include "locus/comm/thread_ranks.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_folder.h"

namespace locus::app {
namespace {

RunConfig config_of_four_ranks() {
  RunConfig config;
  config.moe.num_experts = 8;
  config.moe.router.top_k = 4;
  config.parallel.expert_model_parallel_size = 4;
  config.parallel.ranks_per_node = 2;
  return config;
}

// Of rank 0, after all have settled.
comm::ParallelContext settled(const RunConfig& config, std::string* reason = nullptr) {
  comm::ParallelContext found;
  comm::run_thread_ranks(4, config.parallel, [&](comm::ParallelContext context) {
    const std::string why = settle_exchange(config, 50e9, context);
    if (context.rank != 0) return;
    found.exchange = context.exchange;
    found.topology = context.topology;
    if (reason != nullptr) *reason = why;
  });
  return found;
}

TEST(ExchangeSettings, AreSettledByEmulatedLinksAndSayWhy) {
  RunConfig config = config_of_four_ranks();
  config.comm.emulate.nodes = 2;
  config.comm.emulate.latency_us = 50;
  config.comm.emulate.gbit_per_s = 0.1;
  std::string reason;
  const comm::ParallelContext found = settled(config, &reason);
  EXPECT_EQ(found.exchange.type, "dedup");
  EXPECT_GE(found.exchange.chunks, 1);
  EXPECT_DOUBLE_EQ(found.topology.inter_node.bytes_per_s, 0.1e9 / 8);
  EXPECT_NE(reason.find("dedup in"), std::string::npos) << reason;
  EXPECT_NE(reason.find("by known links"), std::string::npos) << reason;
}

TEST(ExchangeSettings, KeepWhatIsSet) {
  RunConfig config = config_of_four_ranks();
  config.parallel.exchange = {"hierarchical", 2, "bfloat16"};
  const comm::ParallelContext found = settled(config);
  EXPECT_EQ(found.exchange.type, "hierarchical");
  EXPECT_EQ(found.exchange.chunks, 2);
  EXPECT_EQ(found.exchange.wire_dtype, "bfloat16");
}

TEST(ExchangeSettings, TakeTheLinksOfAFileOfTheSameRanksAlone) {
  const test::TempFolder folder;
  const auto write = [&](const std::vector<std::string>& hosts) {
    cluster::Topology topology(hosts);
    topology.inter_node = {20e-6, 1e9, {}};
    topology.intra_node = {2e-6, 5e9, {}};
    cluster::write_topology(topology, folder.path() / "links.json");
  };
  RunConfig config = config_of_four_ranks();
  config.comm.topology = (folder.path() / "links.json").string();
  write({"a", "a", "b", "b"});
  EXPECT_DOUBLE_EQ(settled(config).topology.inter_node.bytes_per_s, 1e9);
  write({"a", "b", "a", "b"});
  const std::string error = test::error_of<DataError>([&] { settled(config); });
  EXPECT_NE(error.find("links.json"), std::string::npos) << error;
  EXPECT_NE(error.find("4 ranks on 2 nodes, this run has 4 on 2"), std::string::npos) << error;
  write({"a", "a"});
  EXPECT_NE(test::error_of<DataError>([&] { settled(config); }).find("2 ranks on 1"),
            std::string::npos);
}

TEST(ExchangeSettings, AreNoneWithoutExpertsOfOtherRanks) {
  comm::ParallelContext context = comm::alone();
  EXPECT_NE(settle_exchange(RunConfig(), 1e9, context).find("none"), std::string::npos);
}

}  // namespace
}  // namespace locus::app
