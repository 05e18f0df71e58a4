// How near tokens and experts were, and what each measure saved: the section's text and tables as
// HTML.
#pragma once

#include <string>
#include <vector>

#include "locus/report/run_data.h"

namespace locus::report {

// The whole section, empty if no run had its experts on several nodes. `labels`: HTML, by run.
std::string make_locality(const std::vector<RunData>& runs, const std::vector<std::string>& labels);

}  // namespace locus::report
