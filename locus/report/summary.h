// What a run came to, in words and in a table: the part of the report that needs no chart.
#pragma once

#include <string>
#include <vector>

#include "locus/report/run_data.h"

namespace locus::report {

// Something that a reader should know before trusting a run.
struct Notice {
  enum class Level { kInfo, kWarning };
  Level level;
  std::string text;  // plain text, one or two sentences
};

struct Fact {
  std::string name;
  std::string value;  // plain text
};

// How evenly the experts were used in the last tenth of the samples.
struct ExpertBalance {
  double load_cv = kMissing;          // mean over layers
  double worst_over_mean = kMissing;  // the busiest expert of the worst layer
  int64_t worst_layer = -1;
};

ExpertBalance measure_balance(const RunData& run);

// A paragraph: what was trained, how long, to which loss, how the experts were used.
std::string describe_run(const RunData& run);

// Always the same names in the same order, so that runs can stand side by side.
std::vector<Fact> list_facts(const RunData& run);

std::vector<Notice> find_notices(const RunData& run);

}  // namespace locus::report
