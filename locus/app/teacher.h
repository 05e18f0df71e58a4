// The model that a training learns from, beside the labels ([distillation]).
#pragma once

#include <memory>

#include "locus/app/run_config.h"
#include "locus/data/tokenizer.h"
#include "locus/model/transformer.h"

namespace locus::app {

struct Teacher {
  std::shared_ptr<model::Transformer> transformer;  // null: none
  double flops_per_token = 0;                       // forward
};

// All of it on each rank: it computes this rank's tokens alone. ConfigError where it does not fit
// what is trained.
Teacher load_teacher(const RunConfig& config, const data::Tokenizer& tokenizer,
                     const comm::ParallelContext& parallel);

}  // namespace locus::app
