// The smaller model that a cut leaves: an ordinary one, which trains, evaluates, generates and is
// exported as any other.
#pragma once

#include <memory>

#include "locus/search/model_cut.h"
#include "locus/train/optimizer.h"

namespace locus::search {

// With the weights that are left of the whole model's. On its layout, device and in its mode.
std::shared_ptr<model::Transformer> extract(const model::Transformer& whole, const ModelCut& cut);

// The state of an optimiser of the smaller model's becomes what is left of the whole one's, which
// is not distributed.
void extract_state(train::Optimizer& whole, train::Optimizer& part, const CutMap& map);

}  // namespace locus::search
