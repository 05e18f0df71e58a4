// The tokens of all ranks that are routed at one moment: the micro-batches of the same number.
// Capacity, drops and balance are theirs together, so they mean the same whatever ranks the tokens
// are spread over. Every rank brings equally many sequences.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>

#include "locus/comm/collectives.h"

namespace locus::moe {

class TokenPool {
 public:
  TokenPool() = default;  // this rank's alone
  explicit TokenPool(std::shared_ptr<comm::ProcessGroup> group) : group_(std::move(group)) {}

  int64_t num_ranks() const { return group_ == nullptr ? 1 : group_->size(); }
  at::Tensor sum(const at::Tensor& x) const { return comm::sum_over(group_.get(), x); }
  // In order of ranks, which is the order of the tokens in the global batch.
  comm::GatheredRows gather(const at::Tensor& x_N) const {
    return comm::gather_rows(group_.get(), x_N);
  }

 private:
  std::shared_ptr<comm::ProcessGroup> group_;
};

}  // namespace locus::moe
