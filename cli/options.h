// Options of a command by the type of what they fill. Messages are ours: CLI11's name neither the
// value nor what would be right.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

namespace CLI {
class App;
class Option;
}  // namespace CLI

namespace locus::cli {

using Target = std::variant<bool*, int64_t*, uint64_t*, double*, std::string*,
                            std::vector<int64_t>*, std::vector<double>*, std::vector<std::string>*>;

struct OptionText {
  std::string name;           // "--vocab-size"; of arguments by position: "INPUT"
  std::string doc;            // meaning with unit, one line
  std::string placeholder{};  // "FILE"; empty: by type
  std::string group{};        // heading in the help; empty: "Options"
  bool commas = false;        // lists: "a,b" counts as two values
};

// --name VALUE, which may come again for lists. The value that is there already is the default and
// shown.
CLI::Option* add_option(CLI::App& command, const OptionText& text, Target target);

// --name, which sets the bool.
CLI::Option* add_flag(CLI::App& command, const OptionText& text, bool* target, bool value = true);

// --name and --no-name.
CLI::Option* add_switch(CLI::App& command, const OptionText& text, bool* target);

// Arguments by position: one for a string, all for a list.
CLI::Option* add_argument(CLI::App& command, const OptionText& text, Target target);

}  // namespace locus::cli
