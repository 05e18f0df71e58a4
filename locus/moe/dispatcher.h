// Dispatchers bring tokens to their experts and the experts' outputs back.
//
// T tokens, D hidden size, E local experts, N assignments that reach local experts.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "locus/moe/router.h"

namespace locus::moe {

// Tokens for the local experts, sorted by expert, and what combine() needs to put them back.
struct Dispatched {
  at::Tensor x_ND;
  std::vector<int64_t> counts_E;  // rows of each local expert
  at::Tensor token_N, weight_N;   // of each row
  int64_t num_tokens = 0;
};

class Dispatcher {
 public:
  virtual ~Dispatcher() = default;
  virtual Dispatched dispatch(const at::Tensor& x_TD, const Routing& routing) = 0;
  // Sum over a token's rows of weight * y; zero for tokens without rows. [T, D]
  virtual at::Tensor combine(const at::Tensor& y_ND, const Dispatched& dispatched) = 0;
};

// All experts live on this rank: a permutation of rows.
std::unique_ptr<Dispatcher> make_local_dispatcher(int64_t num_experts);

}  // namespace locus::moe
