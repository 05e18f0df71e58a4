// Options of the commands that take smaller models out of a trained one.
#pragma once

#include "cli/commands.h"

namespace locus::cli {

Action add_search(CLI::App& command);
Action add_extract(CLI::App& command);
Action add_measure_latency(CLI::App& command);

}  // namespace locus::cli
