// Settings of evaluation during training, [eval].
#pragma once

#include <cstdint>

namespace locus::eval {

struct EvalConfig {
  int64_t interval = 200;
  int64_t max_batches = 20;
  int64_t batch_size = 8;

  template <class V>
  void visit_fields(V& v) {
    v("interval", interval, "steps between evaluations on the validation data; 0: only at the end");
    v("max_batches", max_batches, "batches of one evaluation during training; 0: all of the data");
    v("batch_size", batch_size, "sequences per batch of evaluation");
  }
};

}  // namespace locus::eval
