// `locus config`
#include <ostream>

#include "locus/app/commands.h"
#include "locus/app/run_config.h"
#include "locus/base/toml.h"

namespace locus::app {

void config(const std::string& file, const std::vector<std::string>& overrides, std::ostream& out) {
  RunConfig config = load_run_config(file, overrides);
  validate(config);
  const bool resolved = !file.empty() || !overrides.empty();
  out << (resolved
              ? "# All settings as they were resolved; of the routers, those of the chosen one.\n\n"
              : "# All settings with their defaults. Keys that a file leaves out keep them.\n\n")
      << write_toml(config.fields(/*chosen_only=*/resolved), /*with_docs=*/true);
}

}  // namespace locus::app
