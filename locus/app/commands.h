// One function per command of the program. Torch-free: the command line and other front ends need
// no more than this. Each throws the errors of base/error.h; results go to `out`, everything else
// to the log.
#pragma once

#include <cstdint>
#include <iosfwd>
#include <string>
#include <vector>

#include "locus/base/error.h"
#include "locus/data/preprocess.h"

namespace locus::app {

struct TrainOptions {
  std::string config;                  // TOML file; empty: defaults
  std::vector<std::string> overrides;  // --set key=value
  bool resume = false;                 // continue the run in train.output_dir, if there is one
  bool dry_run = false;                // check everything, print the tables, allocate nothing
};
void train(const TrainOptions& options, std::ostream& out);

// Whether layouts of ranks compute the same model as one rank: each runs the same steps on threads
// of this process. Throws LayoutsDiffer after the table where one does not.
struct VerifyOptions {
  std::string config;                          // TOML file; empty: defaults
  std::vector<std::string> overrides;          // --set key=value
  std::string layouts = "dp2 ep2 ep2dp2 ep4";  // words
  int64_t steps = 3;
  std::string dtype = "float64";  // or float32
};
void verify(const VerifyOptions& options, std::ostream& out);

// Nodes and ranks of the job that this process belongs to, with measured links; rank 0 speaks.
struct TopologyOptions {
  std::string backend = "auto";  // of the transport, as comm.backend
  std::string output;            // JSON (docs/formats/topology.md); empty: none
};
void topology(const TopologyOptions& options, std::ostream& out);

class LayoutsDiffer : public Error {
 public:
  explicit LayoutsDiffer(const std::string& layouts)
      : Error("these layouts compute another model than one rank: {}", layouts) {}
  int exit_code() const noexcept override { return 1; }
};

// Where a model comes from: a run folder (its newest intact checkpoint), a checkpoint folder, or a
// model folder of Hugging Face.
struct EvalOptions {
  std::string checkpoint;
  std::vector<std::string> data;  // prepared datasets; empty: the validation data of the run
  std::string split = "valid";    // of prepared folders: train | valid | test
  std::vector<std::string> text;  // raw text files instead of prepared data
  std::string output;             // eval.json; empty: none
  int64_t sequence_length = 0;    // 0: as trained
  int64_t batch_size = 8;
  int64_t max_batches = 0;  // 0: all
  int64_t num_threads = 0;  // 0: all cores
  std::string dtype;        // empty: as trained
};
void eval(const EvalOptions& options, std::ostream& out);

struct GenerateOptions {
  std::string checkpoint;
  std::vector<std::string> prompts;  // empty: one prompt a line from standard input
  std::string prompt_file;           // one prompt a line instead
  int64_t max_new_tokens = 128;
  double temperature = 1.0;         // 0: greedy
  int64_t top_k = 0;                // 0: off
  double top_p = 1.0;               // 1: off
  double repetition_penalty = 1.0;  // 1: off (Keskar et al., 2019)
  uint64_t seed = 0;
  std::vector<std::string> stop;  // ends a text where one of these appears; not printed
  bool stream = false;            // print pieces as they come; one prompt only
  bool use_cache = true;
  std::string output;  // also append the samples to this file
  int64_t num_threads = 0;
  std::string dtype;
};
void generate(const GenerateOptions& options, std::ostream& out);

struct TranslateOptions {
  std::string checkpoint;
  std::string input;      // one text a line; empty: standard input
  std::string reference;  // the wanted translations, line by line: BLEU is told
  std::string output;     // empty: standard output
  int64_t num_beams = 5;
  double length_penalty = 1.0;
  int64_t batch_size = 32;
  int64_t num_threads = 0;
  std::string dtype;
};
void translate(const TranslateOptions& options, std::ostream& out);

void prepare(const data::PrepareConfig& config, std::ostream& out);

// Trains the variants that a file describes (compare/config.h), as far as they are not trained yet,
// and sets them side by side. DataError when a training fails, with what it said.
struct CompareOptions {
  std::string file;
  bool dry_run = false;  // check all settings, name the trainings
};
void compare(const CompareOptions& options, std::ostream& out);

// A trained model that smaller ones are chosen in, and how.
struct ElasticOptions {
  std::string checkpoint;     // run, checkpoint or model folder
  std::string target;         // file of measure_latency(): latencies are known; empty: not
  std::string rule = "auto";  // of kChoiceRules (app/elastic.h)
  std::string domain;         // losses are of its tokens alone; empty: of all
  int64_t max_batches = 0;    // of the validation data; 0: all
  int64_t num_threads = 0;
};

// The smaller models inside it: a table, and with `output` a page and a picture.
struct SearchOptions {
  ElasticOptions elastic;
  std::vector<double>
      budgets;         // shares of what the training's are of; empty: those of the training
  std::string output;  // folder of search.md and its pictures; empty: none
};
void search(const SearchOptions& options, std::ostream& out);

// How long a token takes on this machine with layers of many shapes: what a budget of latency is
// reckoned by.
struct MeasureLatencyOptions {
  std::string checkpoint;  // run folder, checkpoint or model folder: the whole model
  std::string output;      // JSON; empty: the whole model alone is measured
  int64_t batch_size = 1;  // sequences that generate together
  int64_t context = 0;     // tokens that each has before; 0: 128, or as many as the model can
  int64_t num_threads = 0;
  std::string dtype;  // empty: as trained
};
void measure_latency(const MeasureLatencyOptions& options, std::ostream& out);

// One of them as a model folder.
struct ExtractOptions {
  ElasticOptions elastic;
  std::vector<std::string> budgets;  // "flops=0.5", "parameters=20M", "memory=2GB": all hold
  std::string output;                // folder that appears complete or not at all
};
void extract(const ExtractOptions& options, std::ostream& out);

// Writes one page about one or several runs.
void report(const std::vector<std::string>& runs, const std::string& output, std::ostream& out);

// `what`: routers | presets | families | experts | optimizers | schedules; empty: what there is to
// list.
void list(const std::string& what, std::ostream& out);

// All settings as TOML with their meaning; with a file, that file resolved.
void config(const std::string& file, const std::vector<std::string>& overrides, std::ostream& out);

// `locus import` and `locus export`: one model folder into another.
struct ConvertOptions {
  std::string source;  // run, checkpoint or model folder
  std::string target;  // folder that appears complete or not at all
  std::string dtype;   // float32 | bfloat16 | float16; empty: as stored
  std::string max_shard_size = "5GB";
  bool overwrite = false;
};
void convert(const ConvertOptions& options, std::ostream& out);

// What a path is (checkpoint, run, dataset, safetensors file, tokenizer), shapes, sizes, checksum
// state. `verify` reads everything and compares the checksums.
void inspect(const std::string& path, bool verify, std::ostream& out);

}  // namespace locus::app
