// Sums gradients over the ranks that hold the same parameters while the backward pass still runs:
// dense parameters over all ranks, experts over those of equal place in their expert-parallel
// groups.
//
// Parameters are packed into buckets in the order in which their gradients come (the reverse of the
// model's). A full bucket sets off; the backward pass goes on. Where the optimiser has a part of
// each parameter, only the sum of these parts comes back, and the new values of all parts are
// collected in the same buckets.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "locus/train/parameter_parts.h"

namespace locus::train {

class GradientReducer {
 public:
  explicit GradientReducer(const ParameterParts& parts, int64_t bucket_bytes = int64_t{25} << 20);
  ~GradientReducer();
  GradientReducer(const GradientReducer&) = delete;  // the parameters' hooks point here
  GradientReducer& operator=(const GradientReducer&) = delete;

  // Before the backward pass of the last micro-batch of a step: earlier ones only accumulate.
  void start();
  // After it: until the gradients of all parts' values are the sums over their ranks. A parameter
  // that got none on any rank has none. Where a value is a part, its parameter's gradient is gone.
  void finish();
  // After an update: until the whole parameters hold the new values of all ranks' parts. Gradients
  // of parts are gone.
  void gather_parameters();

 private:
  struct Bucket;
  class Hook;
  void send_ready();
  void send(Bucket& bucket);

  std::vector<std::unique_ptr<Bucket>> buckets_;
  size_t next_ = 0;  // buckets set off in order, the same on all ranks
  bool active_ = false;
};

}  // namespace locus::train
