// A worker of the benchmarks: a process that is set up once and then measures on demand, so that
// ours and our peers' take turns in one loop (benchmarks/bench.py).
//
//   locus_bench NAME key=value...     prints {"ready": true, ...facts}
//   < run                             one repetition: prints {"seconds": ..., ...}
//   < (end of input)                  the end
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "locus/base/toml.h"

namespace locus::benchmarks {

// One JSON object, keys in order.
using Report = std::vector<std::pair<std::string, std::variant<double, std::string>>>;

struct Worker {
  Report facts;
  std::function<Report()> run;
  // Of several ranks, all but the first: what they do until the first has come to its end.
  std::function<void()> follow = nullptr;
};

using MakeWorker = Worker(const std::vector<std::string>& settings);

struct WorkerEntry {
  std::string_view name;
  std::string_view summary;
  MakeWorker* make;
};

// Runs the worker that the command line names. As in the program itself, freed memory stays with
// the process and algorithms are deterministic; OMP_NUM_THREADS says how many threads compute.
int serve(int argc, char** argv, const std::vector<WorkerEntry>& entries);

// `key=value` settings into a struct with visit_fields(); ConfigError names an unknown key.
template <class Options>
Options parse_settings(const std::vector<std::string>& settings) {
  Options options;
  read_toml("settings", "", settings, collect_fields(options));
  return options;
}

class Stopwatch {
 public:
  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
  }

 private:
  std::chrono::steady_clock::time_point begin_ = std::chrono::steady_clock::now();
};

}  // namespace locus::benchmarks
