// The numbers behind the charts, as the JSON that page/report.js reads:
//
//   {"runs": [{
//     "name", "domains": [name],
//     "axis": {"s", "tokens", "time"},                 how far a run is at a step
//     "curves": {"loss": curve, "valid_loss": ...},
//     "stack": {"s", "data": [seconds], "forward": ...},
//     "moe": [{"layer", "s", "load": [expert][column], "curves", "domain": {"step", "rows"}}],
//     "moe_mean": {"entropy": curve, ...},             mean over the layers
//     "exchange": {"curves": {"inter_bytes": curve, ...},           sums over the layers
//                  "matrix": {"step", "ranks", "merged", "bytes": [from][to], "node": [node]}},
//     "trace": {"step", "names", "tracks", "num_dropped", "dropped_us", "num_ranks",
//               "ranks": [{"name", "bars": {"n", "t", "b", "d"}}]}
//   }]}
//
// curve = {"s", "v"} and, where points had to be left out, {"ms", "mv"}: means, for smoothing.
// Steps "s" are differences from the step before (the first from 0); load is in percent of an even
// share. "exchange" and "trace" are there where the run has them. A line of the matrix stands for
// "merged" neighbouring ranks (the last one for fewer) of the "ranks" there are. Bars: "n" name,
// "t" track, "b" begin as the difference from the bar before, "d" length, in microseconds;
// "num_dropped" bars, the longest of "dropped_us", were one too many, and so were the ranks up to
// "num_ranks".
#pragma once

#include <string>
#include <vector>

#include "locus/report/run_data.h"

namespace locus::report {

// Size is bounded, whatever the number of runs, layers and steps: see the constants in the source.
std::string make_chart_json(const std::vector<RunData>& runs);

}  // namespace locus::report
