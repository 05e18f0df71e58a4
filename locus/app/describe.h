// The tables that a run prints before it starts.
#pragma once

#include <string>

#include "locus/app/run_config.h"

namespace locus::app {

// Model, parameters by part, FLOPs per token, and of each of `num_ranks` ranks the estimated memory
// by kind and, of several, the bytes that it sends in a step. Allocates nothing.
std::string describe_model(const RunConfig& config, int64_t num_ranks = 1);

// "17.8M", "1.30G".
std::string short_number(double value);
std::string short_bytes(double bytes);

}  // namespace locus::app
