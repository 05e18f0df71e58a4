// What a run's exchanges are to be: links, as far as they are known, and the choice that follows.
#pragma once

#include <string>

#include "locus/app/run_config.h"
#include "locus/comm/parallel_context.h"

namespace locus::app {

// What "auto" was for the run that goes on, so that its sums are made in the same order: the choice
// of its config.toml, where experts are spread as they were. Settings that are not "auto" stay.
void keep_exchange(const RunConfig& config, comm::ParallelContext& parallel);

// Takes over the links of comm.topology, or those that are emulated, and settles "auto" in
// parallel.exchange; the reason, in a line. `flops_per_s`: of one rank, the same number on all.
// DataError where the file is of other ranks or nodes than these.
std::string settle_exchange(const RunConfig& config, double flops_per_s,
                            comm::ParallelContext& parallel);

}  // namespace locus::app
