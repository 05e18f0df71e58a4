// The table of commands.
#pragma once

#include <functional>
#include <iosfwd>
#include <span>
#include <string_view>

namespace CLI {
class App;
}

namespace locus::cli {

// Runs a command with the options that were read; its results go to the stream.
using Action = std::function<void(std::ostream&)>;

struct CommandEntry {
  std::string_view name;
  std::string_view summary;          // one line of `locus --help`
  std::string_view description;      // head of `locus COMMAND --help`
  std::string_view footer;           // its end: examples
  Action (*add)(CLI::App& command);  // declares the options
  bool computes_tensors;
};

std::span<const CommandEntry> command_entries();

}  // namespace locus::cli
