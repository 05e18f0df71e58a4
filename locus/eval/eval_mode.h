// For as long as it lives: the model is in evaluation mode and no gradients are recorded.
#pragma once

#include <ATen/core/grad_mode.h>

#include "locus/model/transformer.h"

namespace locus::eval {

class EvalMode {
 public:
  explicit EvalMode(model::Transformer& model) : model_(model), was_training_(model.is_training()) {
    model_.eval();
  }
  ~EvalMode() { model_.train(was_training_); }
  EvalMode(const EvalMode&) = delete;
  EvalMode& operator=(const EvalMode&) = delete;

 private:
  model::Transformer& model_;
  const bool was_training_;
  const at::NoGradGuard no_grad_;
};

}  // namespace locus::eval
