// The phases of a training whose experts come in phases: which model each one trains, and when the
// next one begins.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "locus/evolve/config.h"
#include "locus/model/config.h"
#include "locus/moe/config.h"

namespace locus::evolve {

// How far a training is: what its checkpoints have to remember of it.
struct Progress {
  std::vector<int64_t> spawned_at;  // step at which each phase after the first has begun
  bool phase_ended = false;         // experts are to be spawned before the next step
  // Of the phase's loss: sum over the steps of this window, and the mean of the one before; NaN:
  // there is none yet.
  double window_sum = 0;
  int64_t window_steps = 0;
  double mean_before = std::numeric_limits<double>::quiet_NaN();

  size_t phase() const { return spawned_at.size(); }
  int64_t first_step() const { return spawned_at.empty() ? 0 : spawned_at.back(); }
};

// As a file of a checkpoint, and back; DataError that names `source`.
std::string to_json(const Progress& progress);
Progress read_progress(const std::string& source, const std::string& json);

// Number of phases; 1 without evolution.
size_t num_phases(const EvolveConfig& config);

// Turns the settings of the last phase into those of another one. Where that has one expert it is
// dense: layers that will have experts get one network of an expert's width.
void apply_phase(const EvolveConfig& config, size_t phase, model::ModelConfig& model,
                 moe::MoeConfig& moe);

// Whether the phase ends after this step, whose loss this was; `progress` takes it up. Never for
// the last phase, nor by the slope of losses before `warmup_steps`.
bool ends_after(const EvolveConfig& config, int64_t step, double loss, Progress& progress,
                int64_t warmup_steps = 0);

// The experts of the next phase are there, after this many steps.
void begin_next_phase(int64_t step, Progress& progress);

// Problems of the settings, one text each.
struct PhaseContext {
  int64_t max_steps = 0;
  int64_t warmup_steps = 0;
  bool starts_from_weights = false;  // checkpoint.initial_load_path
  int64_t expert_model_parallel_size = 1;
};
std::vector<std::string> problems(const EvolveConfig& config, const model::ModelConfig& model,
                                  const moe::MoeConfig& moe, const PhaseContext& context);

}  // namespace locus::evolve
