// All settings of a run: one file, one struct, one list of fields.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "locus/base/options.h"
#include "locus/comm/config.h"
#include "locus/data/config.h"
#include "locus/eval/config.h"
#include "locus/evolve/config.h"
#include "locus/model/config.h"
#include "locus/moe/config.h"
#include "locus/search/config.h"
#include "locus/train/config.h"

namespace locus::app {

struct RunConfig {
  model::ModelConfig model;
  moe::MoeConfig moe;
  data::DataConfig data;
  train::TrainConfig train;
  comm::ParallelConfig parallel;
  comm::CommConfig comm;
  train::OptimizerConfig optimizer;
  train::LrScheduleConfig lr_schedule;
  train::CheckpointConfig checkpoint;
  train::DistillationConfig distillation;
  train::LogConfig log;
  eval::EvalConfig eval;
  evolve::EvolveConfig evolve;
  search::DanceConfig dance;
  // The routers' own settings, by router name: [moe.<name>].
  std::map<std::string, OptionSet> router_options;

  RunConfig();  // defaults
  RunConfig(const RunConfig&) = delete;
  RunConfig& operator=(const RunConfig&) = delete;
  RunConfig(RunConfig&&) = default;
  RunConfig& operator=(RunConfig&&) = default;

  template <class V>
  void visit_fields(V& v) {
    v("model", model, "");
    v("moe", moe, "");
    v("data", data, "");
    v("train", train, "");
    v("parallel", parallel, "");
    v("comm", comm, "");
    v("optimizer", optimizer, "");
    v("lr_schedule", lr_schedule, "");
    v("checkpoint", checkpoint, "");
    v("distillation", distillation, "");
    v("log", log, "");
    v("eval", eval, "");
    v("evolve", evolve, "");
    v("dance", dance, "");
  }

  // Every key, options of all routers included; of the chosen router alone with `chosen_only`.
  // Points into this object.
  Fields fields(bool chosen_only = false);

  const OptionSet& chosen_router_options() const;

  // All problems across sections, one text each; empty: none. Looks at no file.
  std::vector<std::string> problems() const;
};

// Precedence: defaults < folder (checkpoint.initial_load_path) < preset (model.preset) < file <
// overrides. An empty file name: no file. Throws ConfigError for unknown keys, ill-typed values,
// and settings that contradict the folder's shape; does not call problems().
RunConfig load_run_config(const std::string& file, const std::vector<std::string>& overrides);

// From the text of a stored configuration (a checkpoint's config.toml).
RunConfig parse_run_config(const std::string& source, const std::string& text,
                           const std::vector<std::string>& overrides);

// FLOPs of one token, forward; model/size.h. Only the tokens that an encoder has to tell go through
// the output projection.
double forward_flops_per_token(const RunConfig& config);

// Whether the tensors of a checkpoint follow from this key ("moe.num_experts"): it cannot change
// when training goes on.
bool makes_shape(const std::string& key);

// problems() as one ConfigError.
void validate(const RunConfig& config);
// Of this many ranks.
void validate_ranks(const RunConfig& config, int64_t world_size);

// The resolved settings as TOML, options of the chosen router alone.
std::string to_toml(RunConfig& config, bool with_docs = false);

}  // namespace locus::app
