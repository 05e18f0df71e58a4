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

// ConfigError where the teacher of the settings does not fit what is to be trained; its weights are
// not read. model.vocab_size is settled. Nothing without a teacher.
void check_teacher(const RunConfig& config, const data::Tokenizer& tokenizer);

// Forward; 0 without a teacher.
double teacher_flops_per_token(const RunConfig& config);

// After check_teacher(). All of it on each rank: it computes this rank's tokens alone.
Teacher load_teacher(const RunConfig& config, const comm::ParallelContext& parallel);

}  // namespace locus::app
