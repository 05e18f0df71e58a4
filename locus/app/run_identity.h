// What is the same on all ranks of a run, or else they would not train one model; compared by
// comm::check_agreement() before they begin.
#pragma once

#include <string>
#include <vector>

#include "locus/app/run_config.h"
#include "locus/comm/agreement.h"
#include "locus/data/tokenizer.h"
#include "locus/model/transformer.h"

namespace locus::app {

// The build of this program.
comm::Agreement program_identity();

// All settings but paths, which may differ from node to node: what lies there is compared.
comm::Agreement settings_identity(RunConfig& config);

// Of a split ("train", "valid"): counts and hashes of the indices, and of a sample of the tokens.
comm::Agreement data_identity(const RunConfig& config, const std::string& split,
                              const data::Tokenizer& tokenizer);

// Those of this rank's experts, which other ranks of the expert-data-parallel group have too, or
// all other weights, which all ranks have.
comm::Agreement weights_identity(model::Transformer& transformer, bool of_experts);

}  // namespace locus::app
