// Spawning: the experts of a trained model become more of them, each a little different (EvoMoE's
// expert-diversify phase; growing again and upcycling a dense model are the same).
//
// E experts of the new model; expert e is spawned from expert e mod E0 of the old one's E0, so the
// first E0 keep their numbers.
#pragma once

#include <cstdint>

#include "locus/evolve/config.h"
#include "locus/model/transformer.h"
#include "locus/train/optimizer.h"

namespace locus::evolve {

struct Parent {
  // All of it: no part of its experts is on other ranks.
  const model::Transformer& transformer;
  // State to go on with; null: the new model's begins anew. Where it is distributed, all of its
  // ranks spawn together.
  train::Optimizer* optimizer = nullptr;
};

// Fills `child` and its optimiser, of any layout: what both models have is copied; an expert's
// matrices are its parent's, changed as config.diversify says by draws of (seed, layer, expert,
// matrix) alone, its biases and norms are its parent's as they are. Rows of a router that belong to
// experts go with them, plus a little noise that tells siblings apart; a router that the parent had
// not stays as it was made, and what routers count or schedule begins anew.
//
// With diversify = "copy" and weights of a token that sum to 1 over all experts, the new model
// computes what the old one did.
void spawn(const Parent& parent, model::Transformer& child, train::Optimizer& child_optimizer,
           const EvolveConfig& config);

}  // namespace locus::evolve
