// The report on one run or several: one HTML file that needs nothing else and can be sent around.
#pragma once

#include <string>
#include <vector>

#include "locus/report/run_data.h"

namespace locus::report {

// At least one run. Runs of one name are told apart by their folders. The page is under 2 MB for up
// to eight runs of any length; it holds summary, settings and samples as plain HTML, which can be
// read without JavaScript, and draws the charts itself. All that comes from files is escaped.
std::string make_html_report(std::vector<RunData> runs);

}  // namespace locus::report
