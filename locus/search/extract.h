// The smaller model that a cut leaves: an ordinary one, which trains, evaluates, generates and is
// exported as any other.
#pragma once

#include <memory>

#include "locus/search/model_cut.h"

namespace locus::search {

// On the whole model's layout, device and in its mode, without weights yet: copy_weights().
std::shared_ptr<model::Transformer> make_part(const model::Transformer& whole, const ModelCut& cut);

// With the weights that are left of the whole model's.
std::shared_ptr<model::Transformer> extract(const model::Transformer& whole, const ModelCut& cut);

}  // namespace locus::search
