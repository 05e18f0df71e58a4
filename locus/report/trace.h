// A run's trace.json: the timeline of one step on all ranks, as to_chrome_trace() of
// base/timeline.h writes it.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "locus/base/file.h"

namespace locus::report {

struct TraceBar {
  size_t name, track;  // in the trace's lists
  double begin_us, length_us;
};

struct TraceRank {
  std::string name;  // "rank 3"
  std::vector<TraceBar> bars;
};

struct Trace {
  std::vector<std::string> names, tracks;  // each once, in the order in which they come
  std::vector<TraceRank> ranks;            // in the order of their numbers
};

// Events of other kinds than spans and names are left out. DataError that names the file and what
// is wrong with it: not JSON, no list of events, an event without its numbers, or no span at all.
Trace read_trace(const fs::path& path);

}  // namespace locus::report
