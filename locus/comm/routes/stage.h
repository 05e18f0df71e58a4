// One all-to-all of rows that must be there before the next stage begins; for the courier.
#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>

#include <memory>
#include <numeric>
#include <vector>

#include "locus/comm/process_group.h"

namespace locus::comm {

inline at::Tensor empty_rows(int64_t num_rows, const at::Tensor& like) {
  std::vector<int64_t> shape = like.sizes().vec();
  shape[0] = num_rows;
  return at::empty(shape, like.options().requires_grad(false));
}

// Null group: this rank alone, whose rows stay.
inline at::Tensor exchange_and_wait(ProcessGroup* group, const at::Tensor& x_ND,
                                    const std::vector<int64_t>& in_rows,
                                    const std::vector<int64_t>& out_rows) {
  if (group == nullptr) return x_ND;
  const at::Tensor out_MD =
      empty_rows(std::accumulate(out_rows.begin(), out_rows.end(), int64_t{0}), x_ND);
  group->all_to_all(out_MD, x_ND, out_rows, in_rows)->wait_patiently();
  return out_MD;
}

}  // namespace locus::comm
