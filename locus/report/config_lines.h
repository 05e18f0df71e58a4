// A resolved config.toml as flat lines: enough to show and to compare settings that this program
// may not know (runs of other versions). For reading settings into structs there is base/toml.h.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace locus::report {

struct ConfigLine {
  std::string key;    // dotted: "moe.router.top_k"
  std::string value;  // TOML text, without its comment
  bool operator==(const ConfigLine&) const = default;
};

// In the order of the file. DataError with `source` and the line where a line is neither a table, a
// key with a value, a comment nor empty.
std::vector<ConfigLine> read_config_lines(std::string_view source, std::string_view text);

}  // namespace locus::report
