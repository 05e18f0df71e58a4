// Which process of how many this is. The launchers say it in environment variables, each in words
// of its own; they are read here and nowhere else.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

namespace locus::cluster {

// One process of a job. Alone: the defaults.
struct Launch {
  std::string launcher = "none";  // none | torchrun | mpirun | srun
  int64_t rank = 0;
  int64_t world_size = 1;
  int64_t local_rank = 0;        // among the processes of this job on this node
  int64_t local_world_size = 1;  // how many of them there are
  std::string host;              // this node's name
  // Where rank 0 (or the launcher's agent) listens for the others to meet. Port 0: the launcher
  // does not say, and nothing can be derived.
  std::string master_addr;
  int64_t master_port = 0;
  bool agent_has_store = false;  // torchrun: its agent serves the store already
  // The launcher's name for the job, equal on all ranks; empty: none. A restart by torchrun or a
  // requeue by Slurm keeps it and raises `restarts`.
  std::string job;
  int64_t restarts = 0;  // how often the launcher has started it anew
};

// The value of an environment variable, if it is set.
using Environment = std::function<std::optional<std::string>(const std::string& name)>;
Environment process_environment();

// Looks for torchrun (RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR...), then mpirun (Open MPI's
// OMPI_COMM_WORLD_*; PMI_* of MPICH and Intel MPI), then a Slurm step (SLURM_PROCID with
// SLURM_STEP_ID...): of launchers inside each other the innermost counts. A batch script of Slurm
// outside of a step runs alone. MASTER_ADDR and MASTER_PORT of the user's count under mpirun and
// srun, too; without them srun's tasks meet on the first node of the step, and mpirun's, where one
// node holds them all, on 127.0.0.1. ConfigError that names the variable where one is missing, not
// a number, out of range, or contradicts another.
Launch read_launch(const Environment& environment, const std::string& host);

std::string host_name();

}  // namespace locus::cluster
