// `locus report`
#include "locus/report/html_report.h"

#include <ostream>
#include <utility>

#include "locus/app/commands.h"
#include "locus/base/error.h"
#include "locus/base/file.h"
#include "locus/report/run_data.h"

namespace locus::app {

void report(const std::vector<std::string>& runs, const std::string& output, std::ostream& out) {
  if (runs.empty()) throw ConfigError("name at least one run folder");
  std::vector<report::RunData> data;
  for (const std::string& run : runs) data.push_back(report::load_run(run));
  fs::path path = output;
  if (path.empty())
    path = runs.size() == 1 ? fs::path(runs.front()) / "report.html" : "report.html";
  write_file_atomic(path, report::make_html_report(std::move(data)));
  out << path.string() << "\n";
}

}  // namespace locus::app
