#include "locus/app/ranks.h"

#include <gtest/gtest.h>

#include "locus/base/error.h"
#include "locus/comm/nccl.h"
#include "locus/comm/thread_ranks.h"
#include "locus/comm/together.h"
#include "tests/support/expect_error.h"

namespace locus::app {
namespace {

TEST(ConnectRanks, RefusesEmulatedLinksOnTopOfRealOnes) {
  cluster::Launch launch = cluster::read_launch(
      [](const std::string& name) -> std::optional<std::string> {
        if (name == "RANK" || name == "LOCAL_RANK") return "0";
        if (name == "WORLD_SIZE") return "4";
        if (name == "LOCAL_WORLD_SIZE") return "2";
        if (name == "MASTER_ADDR") return "n7";
        if (name == "MASTER_PORT") return "29500";
        return std::nullopt;
      },
      "n7");
  comm::CommConfig config;
  config.emulate.nodes = 2;
  EXPECT_NE(test::error_of<ConfigError>([&] {
              connect_ranks(launch, {}, config, {});
            }).find("several machines (2 of 4 on n7)"),
            std::string::npos);
  launch.rank = 3;  // leaves the word to rank 0
  EXPECT_THROW(connect_ranks(launch, {}, config, {}), comm::PeerError);
}

TEST(ConnectRanks, SaysWhyThereIsNoNccl) {
  std::string why;
  if (comm::nccl_is_available(&why)) GTEST_SKIP() << "this machine has NCCL";
  cluster::Launch launch;
  launch.world_size = 2;
  for (const char* backend : {"auto", "nccl"}) {
    comm::CommConfig config;
    config.backend = backend;
    EXPECT_EQ(test::error_of<ConfigError>([&] { connect_ranks(launch, {}, config, {}, "cuda"); }),
              "comm.backend = \"nccl\": " + why);
  }
}

TEST(Ranks, ShareCoresWithThoseOfTheirHostAlone) {
  comm::run_thread_ranks(3, {}, [](const comm::ParallelContext& parallel) {
    const std::string host = parallel.rank == 0 ? "a" : "b";
    EXPECT_EQ(ranks_on_the_same_cores(parallel.world.get(), host), parallel.rank == 0 ? 1 : 2);
  });
  EXPECT_EQ(ranks_on_the_same_cores(nullptr, "a"), 1);
}

}  // namespace
}  // namespace locus::app
