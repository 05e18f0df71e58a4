// Dispatchers bring tokens to their experts and the experts' outputs back.
//
// T tokens, D hidden size, E experts of this rank, N assignments that reach them.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "locus/comm/process_group.h"
#include "locus/moe/router.h"

namespace locus::moe {

struct Exchange;  // of dispatchers/all_to_all.cpp

// Tokens for this rank's experts, sorted by expert, and what combine() needs to put them back.
struct Dispatched {
  at::Tensor x_ND;
  std::vector<int64_t> counts_E;  // rows of each expert of this rank
  at::Tensor token_N, weight_N;   // of each assignment of this rank's tokens, in order of experts
  int64_t num_tokens = 0;
  std::shared_ptr<const Exchange> exchange;  // null: no row has left this rank
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

// The experts are spread evenly over the ranks of `group`, in order: an all-to-all each way.
std::unique_ptr<Dispatcher> make_all_to_all_dispatcher(int64_t num_experts,
                                                       std::shared_ptr<comm::ProcessGroup> group);

}  // namespace locus::moe
