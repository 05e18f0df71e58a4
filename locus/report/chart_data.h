// The numbers behind the charts, as the JSON that page/report.js reads:
//
//   {"runs": [{
//     "name", "domains": [name],
//     "axis": {"s", "tokens", "time"},                 how far a run is at a step
//     "curves": {"loss": curve, "valid_loss": ...},
//     "stack": {"s", "data": [seconds], "forward": ...},
//     "moe": [{"layer", "s", "load": [expert][column], "curves", "domain": {"step", "rows"}}],
//     "moe_mean": {"entropy": curve, ...}              mean over the layers
//   }]}
//
// curve = {"s", "v"} and, where points had to be left out, {"ms", "mv"}: means, for smoothing.
// Steps "s" are differences from the step before (the first from 0); load is in percent of an even
// share.
#pragma once

#include <string>
#include <vector>

#include "locus/report/run_data.h"

namespace locus::report {

// Size is bounded, whatever the number of runs, layers and steps: see the constants in the source.
std::string make_chart_json(const std::vector<RunData>& runs);

}  // namespace locus::report
