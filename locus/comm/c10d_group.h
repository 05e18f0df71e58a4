// A group whose collectives a backend of c10d does. For the transports of c10d alone.
#pragma once

#include <torch/csrc/distributed/c10d/Backend.hpp>

#include <memory>
#include <string>
#include <vector>

#include "locus/comm/process_group.h"

namespace locus::comm {

// `transport`: its name in messages.
std::shared_ptr<ProcessGroup> make_c10d_group(const std::string& transport, const std::string& name,
                                              const std::vector<int64_t>& ranks, int64_t rank,
                                              c10::intrusive_ptr<c10d::Backend> backend);

}  // namespace locus::comm
