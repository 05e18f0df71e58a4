#include "cli/elastic_commands.h"

#include <CLI/CLI.hpp>
#include <memory>
#include <string>

#include "cli/options.h"
#include "locus/app/commands.h"

namespace locus::cli {
namespace {

void add_run(CLI::App& command, std::string* checkpoint, int64_t* num_threads) {
  add_argument(command,
               {.name = "RUN",
                .doc = "run folder (its newest intact checkpoint), checkpoint, or model folder",
                .group = "Arguments"},
               checkpoint)
      ->required();
  add_option(command, {"--num-threads", "threads of tensor operations; 0: one a core"},
             num_threads);
}

void add_elastic(CLI::App& command, app::ElasticOptions& options) {
  add_run(command, &options.checkpoint, &options.num_threads);
  add_option(command, {"--target", "this machine's latencies, of `locus measure-latency`", "FILE"},
             &options.target);
  add_option(command,
             {"--domain",
              "a domain of the training data: losses are of its tokens alone, and what matters for "
              "it is tried, too",
              "NAME"},
             &options.domain);
  add_option(
      command,
      {"--rule",
       "what stays: auto (the best of learned, proportional and domain), learned (gates), "
       "proportional (by importance, all layers alike), domain (by importance for --domain); "
       "to compare with: magnitude (size of weights), even (the first ones), random, use "
       "(experts with most tokens; nothing else goes)",
       "RULE"},
      &options.rule);
  add_option(command,
             {"--max-batches", "batches of the run's validation data that losses are of; 0: all"},
             &options.max_batches);
}

}  // namespace

Action add_measure_latency(CLI::App& command) {
  auto options = std::make_shared<app::MeasureLatencyOptions>();
  add_run(command, &options->checkpoint, &options->num_threads);
  add_option(command,
             {"--output", "file of the table, JSON; without it the model as it is, alone", "FILE"},
             &options->output);
  add_option(command, {"--batch-size", "sequences that generate together"}, &options->batch_size);
  add_option(
      command,
      {"--context", "tokens that each of them has before; 0: 128, or as many as the model can"},
      &options->context);
  add_option(
      command,
      {"--dtype", "type that computes: float32 or bfloat16; as trained if not given", "TYPE"},
      &options->dtype);
  return [options](std::ostream& out) { app::measure_latency(*options, out); };
}

Action add_search(CLI::App& command) {
  auto options = std::make_shared<app::SearchOptions>();
  add_elastic(command, options->elastic);
  add_option(command,
             {"--budgets",
              "share of the whole model's costs (dance.resource: forward FLOPs), may be repeated; "
              "those of "
              "the training if not given",
              "SHARE"},
             &options->budgets);
  add_option(command, {"--output", "also write a page and a picture into this folder", "FOLDER"},
             &options->output);
  return [options](std::ostream& out) { app::search(*options, out); };
}

Action add_extract(CLI::App& command) {
  auto options = std::make_shared<app::ExtractOptions>();
  add_elastic(command, options->elastic);
  add_option(command,
             {"--budget",
              "what the model may cost: flops, parameters, memory, exchange or latency, as a share "
              "of the whole model's (flops=0.5) or a number (parameters=20M, memory=2GB, "
              "latency=12ms); may be repeated",
              "COST=LIMIT"},
             &options->budgets)
      ->required();
  add_option(command, {"--output", "folder of the model", "FOLDER"}, &options->output)->required();
  return [options](std::ostream& out) { app::extract(*options, out); };
}

}  // namespace locus::cli
