// What a command line asks for. CLI11 lives in this folder and nowhere else.
#pragma once

#include <functional>
#include <iosfwd>
#include <string>
#include <vector>

namespace locus::cli {

struct Request {
  std::function<void(std::ostream&)> run;
  std::string log_level = "info";
  bool computes_tensors = false;
  bool lacks_command = false;  // `run` prints the help, which is no success
};

// Without the program's name. Throws ConfigError that says what is wrong and names what is near.
Request parse_arguments(std::vector<std::string> arguments, int columns);

}  // namespace locus::cli
