// From a launcher's environment to connected ranks.
#pragma once

#include <string>
#include <vector>

#include "locus/cluster/launch.h"
#include "locus/comm/agreement.h"
#include "locus/comm/config.h"
#include "locus/comm/parallel_context.h"

namespace locus::app {

// This process's place in its job: mpirun's, srun's, torchrun's, or alone.
cluster::Launch find_launch();

// Where the ranks of this node have more threads together than it has cores.
void warn_of_few_cores(const cluster::Launch& launch, int64_t num_threads);

// How many ranks, this one included, may run on the very cores of this one: all of a machine,
// unless the launcher binds each to its own. All ranks call it together.
int64_t ranks_on_the_same_cores(comm::ProcessGroup* world, const std::string& host);

// How many ranks there are, where, and what they share: for the table of choices.
std::string describe_ranks(const comm::ParallelContext& parallel);

// Connects the ranks of a job and makes their groups; a single process gets comm::alone().
// `device`: whose memory most tensors of the collectives are in. ConfigError for a back end that is
// not there, and where the ranks do not have `in_common` in common; CommError when they do not meet
// in time.
comm::ParallelContext connect_ranks(const cluster::Launch& launch,
                                    const comm::ParallelConfig& parallel,
                                    const comm::CommConfig& config,
                                    const std::vector<comm::Agreement>& in_common = {},
                                    const std::string& device = "cpu");

}  // namespace locus::app
