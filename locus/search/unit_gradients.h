// What the loss gains or loses with each unit, from the gradients of weights alone: where m scales
// what a unit writes, which is a product with the columns W of its output projection,
// dLoss/dm = <W, dLoss/dW> at m = 1, and <W, dLoss/d(mW)> at any m.
#pragma once

#include <vector>

#include "locus/search/arch_space.h"

namespace locus::search {

// Units of the layers' dense parts, and those of experts, of which a rank has its own: what others
// have is to be added. Slots of top_k have no weights and get 0.
struct UnitGradients {
  std::vector<double> dense, experts;
};

// `weights`: whose products with the gradients count; `gradients`: whose gradients do, a model of
// the same layers, with all their heads and channels, and those experts that `cut` leaves. Those
// without a gradient count as 0.
UnitGradients unit_gradients(const ArchSpace& space, const model::Transformer& weights,
                             const model::Transformer& gradients, const ModelCut& cut);

// Where there are no gradients: the length of what each unit writes with. Of a model that is here
// as a whole.
std::vector<double> unit_magnitudes(const ArchSpace& space, const model::Transformer& transformer);

}  // namespace locus::search
