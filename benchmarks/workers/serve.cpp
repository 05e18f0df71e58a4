#include "benchmarks/workers/serve.h"

#include <ATen/Parallel.h>
#include <sys/resource.h>

#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "cli/allocator.h"
#include "locus/app/session.h"
#include "locus/base/error.h"

namespace locus::benchmarks {
namespace {

void print(const Report& report) {
  nlohmann::ordered_json line;
  for (const auto& [key, value] : report) {
    std::visit([&line, &key = key](const auto& one) { line[key] = one; }, value);
  }
  std::cout << line.dump() << std::endl;
}

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// Bytes of a line of /proc/self/status. ru_maxrss would do, but a child inherits its parent's.
double status_bytes(const std::string& key) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(key + ":")) return std::stod(line.substr(key.size() + 1)) * 1024;
  }
  throw DataError("/proc/self/status has no {}", key);
}

void answer(const Worker& worker) {
  for (std::string command; std::getline(std::cin, command);) {
    if (command != "run") throw ConfigError("command \"{}\" is not known; only run", command);
    const double cpu_before = cpu_seconds();
    Report report = worker.run();
    report.emplace_back("cpu_seconds", cpu_seconds() - cpu_before);
    report.emplace_back("peak_rss_bytes", status_bytes("VmHWM"));
    report.emplace_back("private_bytes", status_bytes("RssAnon"));
    print(report);
  }
}

}  // namespace

int serve(int argc, char** argv, const std::vector<WorkerEntry>& entries) {
  try {
    const std::vector<std::string> arguments(argv + 1, argv + argc);
    for (const WorkerEntry& entry : entries) {
      if (arguments.empty() || entry.name != arguments.front()) continue;
      cli::keep_freed_memory();
      app::set_threads(at::get_num_threads());
      const Worker worker = entry.make({arguments.begin() + 1, arguments.end()});
      if (worker.follow) {
        worker.follow();
        return 0;
      }
      Report ready{{"ready", 1.0},
                   {"libtorch", LOCUS_LIBTORCH_VERSION},
                   {"threads", static_cast<double>(at::get_num_threads())}};
      ready.insert(ready.end(), worker.facts.begin(), worker.facts.end());
      print(ready);
      answer(worker);
      return 0;
    }
    std::string names;
    for (const WorkerEntry& entry : entries) {
      names += format("\n  {:<14} {}", entry.name, entry.summary);
    }
    throw ConfigError("usage: locus_bench WORKER key=value...{}", names);
  } catch (const std::exception& error) {
    std::cerr << "locus_bench: " << error.what() << std::endl;
    return 1;
  }
}

}  // namespace locus::benchmarks
