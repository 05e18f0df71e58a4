// The commands, as the front of the program has them: each hands the whole command line over to the
// program that does the work, locus-compute, in the same process.
//
// Loading libtorch takes a quarter of a second. `locus --help`, a shell's completion and a mistyped
// option need none of it: the front, `locus`, reads the command line and answers those itself.
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <vector>

#include "locus/app/commands.h"
#include "locus/base/error.h"

namespace locus::app {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> command_line() {
  std::ifstream file("/proc/self/cmdline", std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  std::vector<std::string> words;
  for (size_t begin = 0; begin < bytes.size();) {
    const size_t end = bytes.find('\0', begin);
    words.push_back(bytes.substr(begin, end - begin));
    begin = end == std::string::npos ? bytes.size() : end + 1;
  }
  return words;
}

// Beside the front in a build folder, below libexec when installed.
fs::path find_program() {
  const fs::path folder = fs::read_symlink("/proc/self/exe").parent_path();
  for (const fs::path& path :
       {folder / "locus-compute", folder / LOCUS_LIBEXEC_FROM_BIN / "locus-compute"}) {
    if (fs::exists(path)) return path;
  }
  throw DataError("locus-compute is missing: it belongs beside {} or into {}; install both again",
                  (folder / "locus").string(),
                  (folder / LOCUS_LIBEXEC_FROM_BIN).lexically_normal().string());
}

// OpenMP's threads wait for the next parallel loop by spinning, which on cores that others use
// slows training down many times; going to sleep at once costs a little at every loop. A short spin
// has neither fault. Read when the library is loaded, so this is the last moment to say it.
void wait_briefly() {
  if (std::getenv("OMP_WAIT_POLICY") == nullptr) setenv("GOMP_SPINCOUNT", "10000", 0);
}

[[noreturn]] void hand_over() {
  const fs::path program = find_program();
  std::vector<std::string> words = command_line();
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  wait_briefly();
  execv(program.c_str(), arguments.data());
  throw DataError("{}: cannot be run: {}", program.string(), std::strerror(errno));
}

}  // namespace

void train(const TrainOptions&, std::ostream&) { hand_over(); }
void verify(const VerifyOptions&, std::ostream&) { hand_over(); }
void topology(const TopologyOptions&, std::ostream&) { hand_over(); }
void eval(const EvalOptions&, std::ostream&) { hand_over(); }
void generate(const GenerateOptions&, std::ostream&) { hand_over(); }
void translate(const TranslateOptions&, std::ostream&) { hand_over(); }
void prepare(const data::PrepareConfig&, std::ostream&) { hand_over(); }
void compare(const CompareOptions&, std::ostream&) { hand_over(); }
void report(const std::vector<std::string>&, const std::string&, std::ostream&) { hand_over(); }
void list(const std::string&, std::ostream&) { hand_over(); }
void config(const std::string&, const std::vector<std::string>&, std::ostream&) { hand_over(); }
void convert(const ConvertOptions&, std::ostream&) { hand_over(); }
void search(const SearchOptions&, std::ostream&) { hand_over(); }
void measure_latency(const MeasureLatencyOptions&, std::ostream&) { hand_over(); }
void extract(const ExtractOptions&, std::ostream&) { hand_over(); }
void inspect(const std::string&, bool, std::ostream&) { hand_over(); }

}  // namespace locus::app
