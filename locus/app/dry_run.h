// `locus train --dry-run`: what a run would be, without building it.
#pragma once

#include <cstdint>
#include <ostream>

#include "locus/app/run_config.h"
#include "locus/cluster/launch.h"

namespace locus::app {

// Checks everything that needs no tensors, and prints the tables of a run of `num_ranks` ranks.
void dry_run(RunConfig config, int64_t num_ranks, std::ostream& out);

// A dry run alone explains the fewest ranks that the settings are for.
int64_t described_ranks(const RunConfig& config, const cluster::Launch& launch);

}  // namespace locus::app
