#include "locus/app/ranks.h"

#include <cstdlib>

#include "locus/base/error.h"
#include "locus/cluster/address.h"
#include "locus/comm/gloo.h"
#include "locus/comm/mpi.h"
#include "locus/comm/store.h"

namespace locus::app {
namespace {

std::string choose_backend(const cluster::Launch& launch, const std::string& wanted) {
  std::string why;
  if (wanted == "auto") {
    return launch.launcher == "mpirun" && comm::mpi_is_available(&why) ? "mpi" : "gloo";
  }
  if (wanted == "mpi" && !comm::mpi_is_available(&why)) {
    throw ConfigError("comm.backend = \"mpi\": {}", why);
  }
  if (wanted == "nccl") {
    throw ConfigError(
        "comm.backend = \"nccl\": training on GPUs of several ranks is not there yet");
  }
  if (wanted != "gloo" && wanted != "mpi") {
    throw ConfigError("comm.backend = \"{}\" is not known; known: auto, gloo, mpi", wanted);
  }
  return wanted;
}

std::shared_ptr<comm::Transport> make_gloo(const cluster::Launch& launch, double timeout_s) {
  if (launch.master_port == 0) {
    throw ConfigError(
        "{} does not say where the ranks meet; export MASTER_ADDR and MASTER_PORT to all of them",
        launch.launcher);
  }
  const bool one_node = launch.local_world_size == launch.world_size;
  comm::GlooSettings settings{.rank = launch.rank,
                              .world_size = launch.world_size,
                              .timeout_s = timeout_s,
                              .address = "",
                              .start = launch.restarts};
  if (one_node) {
    settings.address = "127.0.0.1";
  } else if (std::getenv("GLOO_SOCKET_IFNAME") == nullptr) {
    settings.address = cluster::address_towards(launch.master_addr, launch.master_port);
  }
  const bool serves = launch.rank == 0 && !launch.agent_has_store;
  return comm::make_gloo_transport(
      settings, comm::make_tcp_store(launch.master_addr, launch.master_port, serves, timeout_s));
}

}  // namespace

cluster::Launch find_launch() {
  return cluster::read_launch(cluster::process_environment(), cluster::host_name());
}

comm::ParallelContext connect_ranks(const cluster::Launch& launch,
                                    const comm::ParallelConfig& parallel,
                                    const comm::CommConfig& config) {
  if (launch.world_size == 1) return comm::alone();
  std::shared_ptr<comm::Transport> transport;
  if (choose_backend(launch, config.backend) == "mpi") {
    transport = comm::make_mpi_transport(config.timeout_s);
  } else {
    transport = make_gloo(launch, config.timeout_s);
  }
  return comm::make_parallel_context(parallel, transport, launch.host);
}

}  // namespace locus::app
