#include "locus/moe/token_pool.h"

#include <ATen/ATen.h>

namespace locus::moe {

PooledRows::PooledRows(const TokenPool& pool, int64_t num_own, const at::Tensor& global_index_N)
    : pool_(pool), num_own_(num_own) {
  if (!global_index_N.defined()) return;
  order_ = at::argsort(pool.gather(global_index_N).all, /*stable=*/true);
}

at::Tensor PooledRows::gather(const at::Tensor& x_N) {
  const comm::GatheredRows rows = pool_.gather(x_N);
  begin_ = rows.begin;
  return order_.defined() ? rows.all.index_select(0, order_) : rows.all;
}

at::Tensor PooledRows::own(const at::Tensor& x_all) const {
  const at::Tensor by_rank =
      order_.defined() ? at::empty_like(x_all).index_put({order_}, x_all) : x_all;
  return by_rank.narrow(0, begin_, num_own_);
}

at::Tensor PooledRows::number_on_rank(const at::Tensor& row) const {
  if (!order_.defined()) return row - begin_;
  return order_.index_select(0, row.reshape(-1)).view_as(row) - begin_;
}

}  // namespace locus::moe
