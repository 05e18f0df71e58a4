// The border between the program and the module locus-mpi.so. Both are built together, with the
// same compiler and standard library, so that objects and exceptions cross it.
#pragma once

#include <cstdint>

#include "locus/comm/process_group.h"

namespace locus::comm {

// The caller owns the result. Throws as make_mpi_transport() does.
using MpiFactory = Transport*(double timeout_s, int64_t max_count);
inline constexpr const char* kMpiFactoryName = "locus_make_mpi_transport";

}  // namespace locus::comm
