// The transport for CPU clusters with an MPI library. MPI is optional when the program is built and
// again when it runs: all calls of it live in a module, locus-mpi.so, that is loaded on demand.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "locus/comm/process_group.h"

namespace locus::comm {

// The most elements (of reductions) or bytes (else) that one MPI call moves; larger tensors go in
// pieces, because MPI counts with int.
inline constexpr int64_t kMpiMaxCount = int64_t{1} << 30;

// True where the program was built with MPI and its library can be loaded; `why` says why not.
bool mpi_is_available(std::string* why);

// Starts MPI; once in the life of a process, on the thread that will also drop the last of the
// transport, its groups and works, which ends MPI. Where an error is under way or a collective has
// failed, MPI is left as it is, so that the process can exit and its launcher ends the others.
// ConfigError where MPI is not available or did not start this process; CommError where it fails.
std::unique_ptr<Transport> make_mpi_transport(double timeout_s, int64_t max_count = kMpiMaxCount);

}  // namespace locus::comm
