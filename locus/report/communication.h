// What the "exchange" lines of a run come to: sums for the charts, and the section's text and
// tables as HTML.
#pragma once

#include <string>
#include <vector>

#include "locus/report/run_data.h"

namespace locus::report {

// Sums over the layers.
struct ExchangeStep : ExchangePoint {
  double exposed_of_step = kMissing;    // of the wall time of a step
  double exposed_of_flight = kMissing;  // of the time that rows were under way
};

// Of the steps in which all layers have a line.
std::vector<ExchangeStep> sum_over_layers(const RunData& run);

// The last lines of the layers together.
struct RankMatrix {
  int64_t step = -1;
  std::vector<std::vector<double>> bytes;  // [from][to]; empty: no line has a matrix
  std::vector<int64_t> node_of;            // by rank; empty: not known
};
RankMatrix sum_rank_bytes(const RunData& run);

// The whole section, empty if no run has any "exchange" line. `labels`: HTML, by run. `timelines`
// goes to its end.
std::string make_communication(const std::vector<RunData>& runs,
                               const std::vector<std::string>& labels,
                               const std::string& timelines);

}  // namespace locus::report
