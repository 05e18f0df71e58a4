// Experts change ranks between two steps: their weights, and the optimiser's state of them, travel
// to where they will be. What the model computes stays the same.
#pragma once

#include <cstdint>

#include "locus/model/transformer.h"
#include "locus/placement/neighbourhood.h"
#include "locus/train/optimizer.h"

namespace locus::train {

// All ranks call it together, with the same places; nothing where one rank has all experts. The
// optimiser's parts of experts must be whole:
// not with a distributed optimiser and several ranks that hold the same experts.
void migrate_experts(model::Transformer& transformer, Optimizer& optimizer, int64_t layer,
                     const placement::ExpertOfSlot& expert_of_slot);

// Bytes of one expert of the layer that travel with it.
double expert_bytes(Optimizer& optimizer, int64_t layer);

}  // namespace locus::train
