// Dispatchers bring tokens to their experts and the experts' outputs back.
//
// T tokens, D hidden size.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>

#include "locus/comm/parallel_context.h"
#include "locus/moe/exchange_stats.h"
#include "locus/moe/experts.h"
#include "locus/moe/router.h"

namespace locus::moe {

// Tokens on their way to the experts. What is computed before combine() hides the way.
class Dispatched {
 public:
  virtual ~Dispatched() = default;
  // Sum over a token's experts of weight * output; zero for tokens without experts. [T, D]. Once.
  virtual at::Tensor combine(const Experts& experts) = 0;
};

class Dispatcher {
 public:
  virtual ~Dispatcher() = default;
  // May leave in routing.assignment what a replay of this layer need not find out again.
  virtual std::unique_ptr<Dispatched> dispatch(const at::Tensor& x_TD, Routing& routing) = 0;
  // Where it is added up what the exchanges cost; null: nowhere. It outlives the backward pass.
  virtual void count_in(std::shared_ptr<ExchangeStats> /*stats*/) {}
  // Where the experts are from now on: expert e at place slot_E[e] of all places, in order of
  // ranks. At first e is at e.
  virtual void place_experts(const std::vector<int64_t>& /*slot_E*/) {}
};

// All experts live on this rank: a permutation of rows.
std::unique_ptr<Dispatcher> make_local_dispatcher(int64_t num_experts);

// The experts are spread evenly over the ranks of the expert-parallel group, in order; rows travel
// by parallel.exchange. `layer`: where parallel.activity says that this rank is.
std::unique_ptr<Dispatcher> make_exchange_dispatcher(int64_t num_experts,
                                                     const comm::ParallelContext& parallel,
                                                     int64_t layer = -1);

}  // namespace locus::moe
