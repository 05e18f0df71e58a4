#include "locus/moe/token_pool.h"

#include <ATen/ATen.h>

namespace locus::moe {

PooledRows::PooledRows(const TokenPool& pool, int64_t num_own, const at::Tensor& global_index_N)
    : pool_(pool), num_own_(num_own), global_index_N_(global_index_N) {}

at::Tensor PooledRows::gather(const at::Tensor& x_N) {
  if (global_index_N_.defined() && !order_.defined()) {
    order_ = at::argsort(pool_.gather(global_index_N_).all, /*stable=*/true);
  }
  const comm::GatheredRows rows = pool_.gather(x_N);
  begin_ = rows.begin;
  return order_.defined() ? rows.all.index_select(0, order_) : rows.all;
}

std::vector<at::Tensor> PooledRows::gather_together(const std::vector<at::Tensor>& columns_N,
                                                    bool is_even) {
  std::vector<at::Tensor> sent;
  for (const at::Tensor& column : columns_N) sent.push_back(column.detach().to(at::kDouble));
  if (global_index_N_.defined()) sent.push_back(global_index_N_.to(at::kDouble));
  const at::Tensor own = at::stack(sent, 1);
  const comm::GatheredRows rows = is_even ? pool_.gather_equal(own) : pool_.gather(own);
  begin_ = rows.begin;
  if (global_index_N_.defined()) {
    order_ = at::argsort(rows.all.select(1, std::ssize(columns_N)), /*stable=*/true);
  }
  std::vector<at::Tensor> all;
  for (size_t i = 0; i < columns_N.size(); ++i) {
    const at::Tensor column = rows.all.select(1, static_cast<int64_t>(i));
    all.push_back((order_.defined() ? column.index_select(0, order_) : column.contiguous())
                      .to(columns_N[i].scalar_type()));
  }
  return all;
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
