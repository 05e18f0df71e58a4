// Groups whose calls are noted and watched over: whatever fails in one ends in the watchdog's
// diagnosis. Around all other wrappers of a transport.
#pragma once

#include <memory>

#include "locus/comm/parallel_context.h"
#include "locus/comm/process_group.h"
#include "locus/comm/watchdog.h"

namespace locus::comm {

// The groups work on, unwatched, when the watchdog has gone.
std::shared_ptr<Transport> make_watched_transport(std::shared_ptr<Transport> real,
                                                  const std::shared_ptr<Watchdog>& watchdog);

// Of the calls that this rank has made so far in `world`, `ep` and `edp`: a number whose sum over
// all ranks is 0 where in each of these groups all members have made the same calls. The sum is
// exact in float64 for up to a million ranks.
double call_balance(const ParallelContext& context);

// All ranks call it with that sum. CommError that names who has made other calls.
void check_call_balance(const ParallelContext& context, double sum);

}  // namespace locus::comm
