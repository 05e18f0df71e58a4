#include "cli/commands.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "cli/elastic_commands.h"
#include "cli/options.h"
#include "locus/app/commands.h"
#include "locus/base/fields.h"

namespace locus::cli {
namespace {

// How the help of `prepare` shows a field. What is not listed gets an option all the same.
struct PrepareText {
  std::string_view field, placeholder, group;
};

constexpr std::string_view kTokenizer = "Tokenizer", kDocuments = "Documents", kSplits = "Splits";

constexpr PrepareText kPrepareTexts[] = {
    {"output", "FOLDER", ""},
    {"overwrite", "", ""},
    {"num_threads", "", ""},
    {"tokenizer", "FILE", kTokenizer},
    {"model_type", "TYPE", kTokenizer},
    {"vocab_size", "", kTokenizer},
    {"tokenizer_sample_bytes", "", kTokenizer},
    {"extensions", "END,...", kDocuments},
    {"deduplicate", "", kDocuments},
    {"max_document_bytes", "", kDocuments},
    {"max_bytes_per_domain", "", kDocuments},
    {"num_clusters", "", kDocuments},
    {"pairs", "", kDocuments},
    {"valid_pairs", "FILE,FILE", kSplits},
    {"test_pairs", "FILE,FILE", kSplits},
    {"valid_share", "", kSplits},
    {"test_share", "", kSplits},
    {"split_seed", "", kSplits},
};

// vocab_size -> --vocab-size
std::string option_name_of(std::string field) {
  std::replace(field.begin(), field.end(), '_', '-');
  return "--" + field;
}

void add_prepare_field(CLI::App& command, const Field& field) {
  OptionText text{.name = option_name_of(field.path), .doc = field.doc, .commas = true};
  for (const PrepareText& known : kPrepareTexts) {
    if (known.field != field.path) continue;
    text.placeholder = known.placeholder;
    text.group = known.group;
  }
  if (bool* const* value = std::get_if<bool*>(&field.value)) {
    add_switch(command, text, *value);
  } else {
    const Target target = std::visit([](auto* pointer) { return Target(pointer); }, field.value);
    add_option(command, text, target)->required(field.path == "output");
  }
}

Action add_prepare(CLI::App& command) {
  auto config = std::make_shared<data::PrepareConfig>();
  for (const Field& field : collect_fields(*config)) {
    if (field.path == "inputs") {
      const OptionText text{.name = "INPUT", .doc = field.doc, .group = "Arguments"};
      add_argument(command, text, &config->inputs)->required();
    } else {
      add_prepare_field(command, field);
    }
  }
  return [config](std::ostream& out) { app::prepare(*config, out); };
}

void add_set(CLI::App& command, std::vector<std::string>* overrides) {
  const OptionText text{"--set", "one setting in TOML's syntax, after the file; may be repeated",
                        "KEY=VALUE"};
  add_option(command, text, overrides);
}

// Few flags, frozen by tests/cli/cases/train_options.txt: everything else is a setting of the file.
Action add_train(CLI::App& command) {
  auto options = std::make_shared<app::TrainOptions>();
  add_option(command, {"--config", "settings; `locus config` prints all there are", "FILE"},
             &options->config);
  add_set(command, &options->overrides);
  add_flag(command, {"--dry-run", "check everything, print sizes, FLOPs and memory, and stop"},
           &options->dry_run);
  add_flag(
      command,
      {"--resume", "go on from the newest intact checkpoint of train.output_dir, if there is one"},
      &options->resume);
  return [options](std::ostream& out) { app::train(*options, out); };
}

Action add_verify(CLI::App& command) {
  auto options = std::make_shared<app::VerifyOptions>();
  add_option(command, {"--config", "settings of the model and its training", "FILE"},
             &options->config);
  add_set(command, &options->overrides);
  add_option(command,
             {"--layouts",
              "what to compare with one rank, words in quotes: epN spreads the experts over N "
              "ranks, dpN takes N such groups; then, after colons, an exchange, chunksN, zero1",
              "WORDS"},
             &options->layouts);
  add_option(command, {"--steps", "optimiser steps", ""}, &options->steps);
  add_option(command, {"--dtype", "float64 or float32", "TYPE"}, &options->dtype);
  return [options](std::ostream& out) { app::verify(*options, out); };
}

Action add_topology(CLI::App& command) {
  auto options = std::make_shared<app::TopologyOptions>();
  add_option(command, {"--backend", "transport: auto, gloo or mpi", "NAME"}, &options->backend);
  add_option(command, {"--output", "also write what was found to this JSON file", "FILE"},
             &options->output);
  return [options](std::ostream& out) { app::topology(*options, out); };
}

void add_model(CLI::App& command, std::string* checkpoint, int64_t* num_threads,
               std::string* dtype) {
  const char* kModel = "Model";
  add_option(
      command,
      {"--checkpoint", "run folder (its newest intact checkpoint), checkpoint, or model folder",
       "FOLDER", kModel},
      checkpoint)
      ->required();
  add_option(command,
             {"--dtype", "type that computes: float32 or bfloat16; as trained if not given", "TYPE",
              kModel},
             dtype);
  add_option(command, {"--num-threads", "threads of tensor operations; 0: one a core", "", kModel},
             num_threads);
}

Action add_eval(CLI::App& command) {
  auto options = std::make_shared<app::EvalOptions>();
  const char* kData = "Data";
  add_model(command, &options->checkpoint, &options->num_threads, &options->dtype);
  add_option(
      command,
      {"--data", "dataset folder or prefix, may be repeated; not given: the run's validation data",
       "PATH", kData},
      &options->data);
  add_option(command, {"--split", "of dataset folders: train, valid or test", "NAME", kData},
             &options->split);
  add_option(command, {"--text", "raw text file instead, may be repeated", "FILE", kData},
             &options->text);
  add_option(command, {"--sequence-length", "tokens per sequence; 0: as trained", "", kData},
             &options->sequence_length);
  add_option(command, {"--batch-size", "sequences computed at once", "", kData},
             &options->batch_size);
  add_option(command,
             {"--max-batches", "stop after so many batches; 0: all of the data", "", kData},
             &options->max_batches);
  add_option(command, {"--output", "also write the results to this JSON file", "FILE"},
             &options->output);
  return [options](std::ostream& out) { app::eval(*options, out); };
}

Action add_generate(CLI::App& command) {
  auto options = std::make_shared<app::GenerateOptions>();
  const char* kPrompts = "Prompts";
  const char* kSampling = "Sampling";
  add_model(command, &options->checkpoint, &options->num_threads, &options->dtype);
  add_option(command,
             {"--prompt",
              "text to continue, may be repeated; without any: one prompt a line of standard "
              "input",
              "TEXT", kPrompts},
             &options->prompts);
  add_option(command, {"--prompt-file", "one prompt a line of this file", "FILE", kPrompts},
             &options->prompt_file);
  add_option(command, {"--max-new-tokens", "longest continuation", "", kSampling},
             &options->max_new_tokens);
  add_option(command, {"--temperature", "0: always the likeliest token", "", kSampling},
             &options->temperature);
  add_option(command, {"--top-k", "only the k likeliest tokens; 0: all", "", kSampling},
             &options->top_k);
  add_option(
      command,
      {"--top-p", "only the likeliest tokens of this total probability; 1: all", "", kSampling},
      &options->top_p);
  add_option(
      command,
      {"--repetition-penalty", "over 1: tokens that came already are less likely", "", kSampling},
      &options->repetition_penalty);
  add_option(command, {"--seed", "the same seed gives the same text", "", kSampling},
             &options->seed);
  add_option(command,
             {"--stop", "end a text where this appears, may be repeated; it is not printed", "TEXT",
              kSampling},
             &options->stop);
  add_flag(command, {"--stream", "print pieces as they come; one prompt only"}, &options->stream);
  add_flag(command,
           {"--no-cache", "compute the whole context anew for each token: slow, the same text"},
           &options->use_cache, false);
  add_option(command, {"--output", "also append the texts to this file", "FILE"}, &options->output);
  return [options](std::ostream& out) { app::generate(*options, out); };
}

Action add_translate(CLI::App& command) {
  auto options = std::make_shared<app::TranslateOptions>();
  add_model(command, &options->checkpoint, &options->num_threads, &options->dtype);
  add_option(command, {"--input", "one text a line; without it: of standard input", "FILE"},
             &options->input);
  add_option(command,
             {"--output", "where the translations go; without it: standard output", "FILE"},
             &options->output);
  add_option(command,
             {"--reference", "the wanted translations, line by line; BLEU is told", "FILE"},
             &options->reference);
  add_option(command, {"--num-beams", "translations that are followed at a time; 1: greedy"},
             &options->num_beams);
  add_option(command,
             {"--length-penalty",
              "log probabilities are divided by the length to this power: 0 favours short ones"},
             &options->length_penalty);
  add_option(command, {"--batch-size", "texts at a time; has no influence on the translations"},
             &options->batch_size);
  return [options](std::ostream& out) { app::translate(*options, out); };
}

Action add_convert(CLI::App& command) {
  auto options = std::make_shared<app::ConvertOptions>();
  add_argument(command,
               {.name = "SOURCE",
                .doc = "run (its newest intact checkpoint), checkpoint, or model folder",
                .group = "Arguments"},
               &options->source)
      ->required();
  add_argument(command, {.name = "TARGET", .doc = "folder to write", .group = "Arguments"},
               &options->target)
      ->required();
  add_option(
      command,
      {"--dtype", "float32, bfloat16 or float16 for the weights; as they are if not given", "TYPE"},
      &options->dtype);
  add_option(
      command,
      {"--max-shard-size", "largest file of weights; more go to several with an index", "SIZE"},
      &options->max_shard_size);
  add_flag(command, {"--overwrite", "replace TARGET if it is there"}, &options->overwrite);
  return [options](std::ostream& out) { app::convert(*options, out); };
}

Action add_report(CLI::App& command) {
  struct Options {
    std::vector<std::string> runs;
    std::string output;
  };
  auto options = std::make_shared<Options>();
  add_argument(
      command,
      {.name = "RUN", .doc = "run folder; several are laid over each other", .group = "Arguments"},
      &options->runs)
      ->required();
  add_option(command,
             {"--output",
              "file to write; not given: RUN/report.html, of several runs ./report.html", "FILE"},
             &options->output);
  return [options](std::ostream& out) { app::report(options->runs, options->output, out); };
}

Action add_compare(CLI::App& command) {
  auto options = std::make_shared<app::CompareOptions>();
  add_argument(command,
               {.name = "FILE",
                .doc = "TOML file with a table [compare]: config, variants, seeds, equal, jobs",
                .group = "Arguments"},
               &options->file)
      ->required();
  add_flag(command,
           {"--dry-run", "check the settings of all variants, name the trainings, and stop"},
           &options->dry_run);
  return [options](std::ostream& out) { app::compare(*options, out); };
}

Action add_list(CLI::App& command) {
  auto what = std::make_shared<std::string>();
  add_argument(command,
               {.name = "TABLE",
                .doc = "which table; not given: the names of all tables",
                .group = "Arguments"},
               what.get());
  return [what](std::ostream& out) { app::list(*what, out); };
}

Action add_config(CLI::App& command) {
  struct Options {
    std::string file;
    std::vector<std::string> overrides;
  };
  auto options = std::make_shared<Options>();
  add_argument(
      command,
      {.name = "FILE", .doc = "settings to resolve; not given: the defaults", .group = "Arguments"},
      &options->file);
  add_set(command, &options->overrides);
  return [options](std::ostream& out) { app::config(options->file, options->overrides, out); };
}

Action add_inspect(CLI::App& command) {
  struct Options {
    std::string path;
    bool verify = false;
  };
  auto options = std::make_shared<Options>();
  add_argument(command,
               {.name = "PATH",
                .doc = "run, checkpoint or dataset folder, prefix of .bin/.idx, .safetensors "
                       "file, or SentencePiece model",
                .group = "Arguments"},
               &options->path)
      ->required();
  add_flag(command, {"--verify", "read everything and compare it with the checksums"},
           &options->verify);
  return [options](std::ostream& out) { app::inspect(options->path, options->verify, out); };
}

constexpr CommandEntry kCommands[] = {
    {"prepare", "turn text into a tokenised dataset",
     "Turns text into a tokenised dataset: trains a tokenizer (or takes one), drops duplicates, "
     "splits the documents "
     "into train, valid and test, and writes Megatron-LM's .bin/.idx files with the domain of each "
     "document.",
     R"(Examples:
  locus prepare --output data/books books/
  locus prepare --output data/mixed --vocab-size 16384 code=src/ web=web.jsonl
  locus prepare --output data/pairs --pairs train.en train.de
)",
     add_prepare, false},
    {"train", "train the model that a settings file describes",
     "Trains the model that a settings file describes. Ctrl-C writes a checkpoint; --resume goes "
     "on from it.",
     R"(Examples:
  locus train --config configs/top_k.toml --dry-run
  locus train --config configs/top_k.toml \
      --set moe.router.type=switch --set train.output_dir=runs/switch
)",
     add_train, true},
    {"verify", "prove that layouts of ranks compute the same model",
     "Trains a few steps on one rank, and again with the experts and the data spread over several "
     "(threads of this process), from the same weights on the same data, and compares losses, "
     "norms of gradients and all parameters after each step. Names the first step and tensor that "
     "differ; the exit code is 1 then. train.micro_batch_size is that of all ranks together.",
     R"(Examples:
  locus verify --config configs/verify.toml
  locus verify --config configs/verify.toml --layouts "dp2 ep2 ep4dp2" \
      --set moe.router.type=switch
)",
     add_verify, true},
    {"compare", "train variants over several seeds and set them side by side",
     "Trains every variant that a file names with every seed, as far as that is not done yet, with "
     "equal steps, FLOPs, time or active parameters, and writes one table and one page: losses "
     "with "
     "their spread, differences to the first variant with confidence intervals, curves, what it "
     "took to reach the first variant's loss. Start it again to go on.",
     R"(Example:
  locus compare configs/compare/routers.toml
)",
     add_compare, false},
    {"topology", "measure the links between the ranks of a job",
     "Shows which rank is on which node, and measures latency and bandwidth within and between "
     "nodes "
     "by size of message, all ranks sending at once. Start it as you start the training.",
     R"(Examples:
  mpirun -n 8 locus topology --output cluster.json
  srun -n 8 locus topology
)",
     add_topology, true},
    {"eval", "measure perplexity, bits per byte and accuracy by domain",
     "Measures perplexity, bits per byte and next-token accuracy of a trained model, in all and by "
     "domain.",
     R"(Examples:
  locus eval --checkpoint runs/demo --split test --output runs/demo/eval.json
  locus eval --checkpoint runs/demo --text README.md
)",
     add_eval, true},
    {"generate", "continue prompts", "Continues prompts with a trained model.",
     R"(Examples:
  locus generate --checkpoint runs/demo --prompt 'int main(' --stream
  locus generate --checkpoint runs/demo < prompts.txt
)",
     add_generate, true},
    {"translate", "translate texts, and tell BLEU",
     "Translates texts, one a line, by beam search with an encoder-decoder that was trained on "
     "pairs. With the wanted translations, tells corpus BLEU as the package sacrebleu has it.",
     R"(Examples:
  locus translate --checkpoint runs/x --input test.en --reference test.de
  echo "A dog runs." | locus translate --checkpoint runs/x
)",
     add_translate, true},
    {"import", "take over a model from Hugging Face's format",
     "Checks a model folder of Hugging Face (config.json, safetensors, tokenizer) for everything "
     "that "
     "Locus would have to compute, and writes it anew, tensor by tensor, in the type and the sizes "
     "of "
     "files that are asked for. `train`, `eval` and `generate` also take such folders as they are.",
     R"(Examples:
  locus import ~/models/OLMoE-1B-7B models/olmoe --dtype float32
  locus train --config my.toml --set checkpoint.initial_load_path=models/olmoe
)",
     add_convert, true},
    {"export", "write a model for transformers and others",
     "Writes the model of a run or checkpoint as a folder that "
     "AutoModelForCausalLM.from_pretrained "
     "of transformers opens, without the trainer's state. What transformers cannot compute is "
     "said.",
     R"(Examples:
  locus export runs/demo models/demo --dtype bfloat16
  locus export runs/demo/checkpoints/step_00001000 models/demo --max-shard-size 500MB
)",
     add_convert, true},
    {"search", "show the smaller models inside a trained one",
     "Tells what the models inside a trained one cost and what their losses are, and with --output "
     "what each layer keeps. A run whose settings have dance.budgets trains them together.",
     R"(Examples:
  locus search runs/elastic
  locus search runs/elastic --budgets 0.3 --budgets 0.6 --output family
)",
     add_search, true},
    {"extract", "take a smaller model out of a trained one",
     "Chooses what is left of a trained model under a budget and writes it as a model folder: an "
     "ordinary model that `eval`, `generate`, `train` and `export` take. Of the choices by learned "
     "gates and by importance, the one with the lower validation loss. No training.",
     R"(Examples:
  locus extract runs/elastic --budget flops=0.5 --output models/half
  locus extract runs/elastic --budget parameters=20M --budget flops=0.5 --output models/small
)",
     add_extract, true},
    {"measure-latency", "time this machine's tokens, for budgets of latency",
     "Measures how long generation of a token takes on this machine with layers of many shapes, "
     "and writes a table that `search` and `extract` reckon latencies by: some minutes. Without "
     "--output, how long it takes with the model as it is: some seconds.",
     R"(Examples:
  locus measure-latency runs/elastic --output latency.json
  locus extract runs/elastic --budget latency=2ms --target latency.json --output models/fast
  locus measure-latency models/fast
)",
     add_measure_latency, true},
    {"report", "write one HTML page about runs",
     "Writes one HTML page about one run or several: curves, speed, load of the experts, "
     "differences of settings. "
     "The page needs no network.",
     R"(Examples:
  locus report runs/demo
  locus report runs/demo runs/switch --output compare.html
)",
     add_report, false},
    {"list", "list routers, presets and other tables",
     "Lists what can be named in settings: routers, exchanges, presets, families, experts, "
     "optimizers, schedules.",
     R"(Example:
  locus list routers
)",
     add_list, false},
    {"config", "print every setting with its meaning",
     "Prints every setting with value and meaning, as TOML that `locus train --config` takes.",
     R"(Examples:
  locus config > my.toml
  locus config configs/top_k.toml --set moe.router.type=switch
)",
     add_config, false},
    {"inspect", "say what a file or folder holds",
     "Says what a file or folder is and what it holds: sizes, shapes, domains, state of the "
     "checksums.",
     R"(Examples:
  locus inspect runs/demo/checkpoints/step_00001000 --verify
  locus inspect data/books
)",
     add_inspect, false},
};

}  // namespace

std::span<const CommandEntry> command_entries() { return kCommands; }

}  // namespace locus::cli
