// The collectives of one group over MPI.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "locus/comm/mpi/engine.h"
#include "locus/comm/process_group.h"

namespace locus::comm {

std::shared_ptr<ProcessGroup> make_mpi_group(std::shared_ptr<Engine> engine,
                                             std::shared_ptr<const Members> members,
                                             const std::vector<int64_t>& ranks);

}  // namespace locus::comm
