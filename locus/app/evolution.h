// A training whose experts come in phases ([evolve]): its settings in each phase, and the model of
// the next one out of that of the last.
#pragma once

#include <cstddef>
#include <memory>

#include "locus/app/run_config.h"
#include "locus/evolve/phases.h"
#include "locus/model/transformer.h"
#include "locus/train/checkpoint.h"
#include "locus/train/optimizer.h"

namespace locus::app {

// The file of a checkpoint that says how far its training is.
inline constexpr const char* kProgressFile = "evolve.json";

// The settings in a phase, with the shape of its model; before the last one they are those of a
// training without phases.
RunConfig in_phase(RunConfig& config, size_t phase);

// What the checkpoint says; of a training without phases, that it is at its start.
evolve::Progress load_progress(const train::CheckpointRef& checkpoint);

// A model that experts are spawned from, whole on this rank, with its optimiser's state; null where
// training begins with its weights.
struct WholeModel {
  std::shared_ptr<model::Transformer> transformer;
  std::unique_ptr<train::Optimizer> optimizer;
};

// `phase`: settings of the phase that ends. From its checkpoint, or, without one, from
// checkpoint.initial_load_path.
WholeModel load_whole(const RunConfig& phase, const train::CheckpointRef* checkpoint);

}  // namespace locus::app
