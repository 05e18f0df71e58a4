// The tokens of all ranks that are routed at one moment: the micro-batches of the same number.
// Capacity, drops and balance are theirs together, so they mean the same whatever ranks the tokens
// are spread over. Every rank brings equally many sequences.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "locus/comm/collectives.h"

namespace locus::moe {

class TokenPool {
 public:
  TokenPool() = default;  // this rank's alone
  explicit TokenPool(std::shared_ptr<comm::ProcessGroup> group) : group_(std::move(group)) {}

  int64_t num_ranks() const { return group_ == nullptr ? 1 : group_->size(); }
  at::Tensor sum(const at::Tensor& x) const { return comm::sum_over(group_.get(), x); }
  // In order of ranks.
  comm::GatheredRows gather(const at::Tensor& x_N) const {
    return comm::gather_rows(group_.get(), x_N);
  }
  comm::GatheredRows gather_equal(const at::Tensor& x_N) const {
    return comm::gather_equal_rows(group_.get(), x_N);
  }

 private:
  std::shared_ptr<comm::ProcessGroup> group_;
};

// Rows that belong to tokens, of all ranks, in the order of the global batch: so ties and positions
// mean the same whichever ranks compute which sequences. All ranks make one together.
class PooledRows {
 public:
  // global_index_N: places of this rank's rows in the global batch. Undefined: the order of ranks
  // is the order of the batch.
  PooledRows(const TokenPool& pool, int64_t num_own, const at::Tensor& global_index_N);

  // Of all ranks; one of these two comes before the others.
  at::Tensor gather(const at::Tensor& x_N);
  // The same of several numbers of each row in one message: floats, or whole numbers below 2^53.
  // Where every rank has equally many rows, no other message tells how many.
  std::vector<at::Tensor> gather_together(const std::vector<at::Tensor>& columns_N, bool is_even);
  // This rank's rows of what belongs to all.
  at::Tensor own(const at::Tensor& x_all) const;
  // From rows of all to rows of this rank; negative or too large: another rank's.
  at::Tensor number_on_rank(const at::Tensor& row) const;

 private:
  const TokenPool& pool_;
  int64_t num_own_;
  at::Tensor global_index_N_;
  int64_t begin_ = 0;  // of this rank's rows in order of ranks
  at::Tensor order_;   // rows in order of ranks, sorted by the batch; undefined: they are sorted
};

}  // namespace locus::moe
