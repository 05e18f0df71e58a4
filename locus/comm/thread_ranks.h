// Ranks as threads of this process: Gloo over loopback, meeting in memory. No launcher and no port;
// `locus verify` and the tests run whole layouts so.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "locus/comm/config.h"
#include "locus/comm/parallel_context.h"

namespace locus::comm {

struct ThreadRanksOptions {
  double timeout_s = 60.0;
  EmulateConfig emulate = {};
  // Puts something of the tests' around the transport of each rank, below what is emulated.
  std::function<std::shared_ptr<Transport>(std::shared_ptr<Transport>)> wrap = {};
};

// Runs `rank` on each of `world_size` ranks and waits for all. The first exception that is not a
// consequence of another's end (CommError, PeerError) is thrown on, else any.
void run_thread_ranks(int64_t world_size, const ParallelConfig& config,
                      const std::function<void(const ParallelContext&)>& rank,
                      const ThreadRanksOptions& options = {});

}  // namespace locus::comm
