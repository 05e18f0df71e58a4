// The program: reads the command line, runs one command, and turns every error into one message on
// standard error and an exit code.
#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <new>
#include <string>
#include <vector>

#include "cli/allocator.h"
#include "cli/args.h"
#include "cli/help.h"
#include "locus/base/error.h"
#include "locus/base/log.h"
#include "locus/base/progress.h"

namespace {

constexpr int kInternalError = 1;
constexpr int kWrongCommand = 2;
constexpr int kBadFile = 3;

void run(const locus::cli::Request& request) {
  locus::log::set_level(locus::log::parse_level(request.log_level));
  if (request.computes_tensors) locus::cli::keep_freed_memory();
  request.run(std::cout);
  errno = 0;
  if (!std::cout.flush()) {
    throw locus::DataError("standard output: cannot be written{}{}", errno != 0 ? ": " : "",
                           errno != 0 ? std::strerror(errno) : "");
  }
}

int run_guarded(std::vector<std::string> arguments) {
  try {
    const auto request =
        locus::cli::parse_arguments(std::move(arguments), locus::cli::terminal_columns());
    if (request.lacks_command) {
      request.run(std::cerr);
      return kWrongCommand;
    }
    run(request);
    return 0;
  } catch (const locus::Interrupted& end) {
    locus::ProgressBar::clear_line();
    std::cerr << "locus: " << end.what() << std::endl;
    return end.exit_code();
  } catch (const locus::Error& error) {
    if (!error.is_told_elsewhere()) locus::print_error("error", error.what());
    return error.exit_code();
  } catch (const std::filesystem::filesystem_error& error) {
    locus::print_error("error", error.what());  // a path that cannot be looked at: no fault of ours
    return kBadFile;
  } catch (const std::bad_alloc&) {
    locus::print_error("error", "out of memory");
  } catch (const std::exception& error) {
    locus::print_error("internal error", error.what());
  }
  return kInternalError;
}

}  // namespace

int main(int argc, char** argv) {
  // `locus list | head`: the end of the reader is a quiet end, whatever the parent set.
  std::signal(SIGPIPE, SIG_DFL);
  std::signal(SIGXFSZ, SIG_IGN);  // a file over its limit is an error like a full disk
  return run_guarded({argv + std::min(argc, 1), argv + argc});
}
