// The transport for GPUs: NCCL, as a libtorch with CUDA brings it, and Gloo beside it for what lies
// in the host's memory (counts, statistics, texts). Twin sources: nccl.cpp where the program is
// built with CUDA, no_nccl.cpp elsewhere.
#pragma once

#include <memory>
#include <string>

#include "locus/comm/gloo.h"

namespace locus::comm {

// True where the program was built with NCCL and this machine has a GPU; `why` says why not.
bool nccl_is_available(std::string* why);

// One GPU for each rank: that of its tensors. The settings are Gloo's, the deadline holds for both.
// ConfigError where NCCL is not available.
std::unique_ptr<Transport> make_nccl_transport(const GlooSettings& settings,
                                               const std::shared_ptr<Store>& store);

}  // namespace locus::comm
