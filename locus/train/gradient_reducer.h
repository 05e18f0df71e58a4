// Sums gradients over the ranks that hold the same parameters while the backward pass still runs:
// dense parameters over all ranks, experts over those of equal place in their expert-parallel
// groups.
//
// Parameters are packed into buckets in the order in which their gradients come (the reverse of the
// model's). A full bucket sets off; the backward pass goes on.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "locus/comm/parallel_context.h"
#include "locus/train/optimizer.h"

namespace locus::train {

// True for the parameters of experts, of which each rank has its own.
bool is_expert_parameter(const std::string& name);

class GradientReducer {
 public:
  GradientReducer(const NamedTensors& parameters, const comm::ParallelContext& parallel,
                  int64_t bucket_bytes = int64_t{25} << 20);
  ~GradientReducer();
  GradientReducer(const GradientReducer&) = delete;  // the parameters' hooks point here
  GradientReducer& operator=(const GradientReducer&) = delete;

  // Before the backward pass of the last micro-batch of a step: earlier ones only accumulate.
  void start();
  // After it: until all gradients are the sums over their ranks.
  void finish();

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
