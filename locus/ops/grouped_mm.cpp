#include "locus/ops/grouped_mm.h"

#include <ATen/ATen.h>

#include <vector>

#include "locus/base/error.h"

namespace locus::ops {
namespace {

// The fused kernel wants rows of whole 16 bytes.
bool has_fused_kernel(const at::Tensor& a, const at::Tensor& b) {
  return a.is_cuda() && a.scalar_type() == at::kBFloat16 && a.size(1) % 8 == 0 &&
         b.size(-1) % 8 == 0;
}

// End of each group among the rows: what at::_grouped_mm wants, int32 on the device.
at::Tensor group_ends(std::span<const int64_t> counts_E, at::Device device) {
  std::vector<int32_t> ends;
  int64_t end = 0;
  for (const int64_t count : counts_E) ends.push_back(static_cast<int32_t>(end += count));
  return at::tensor(ends, at::kInt).to(device);
}

}  // namespace

at::Tensor grouped_mm(const at::Tensor& a_NK, const at::Tensor& b_EKM,
                      std::span<const int64_t> counts_E) {
  LOCUS_CHECK(b_EKM.size(0) == static_cast<int64_t>(counts_E.size()), "{} groups, {} counts",
              b_EKM.size(0), counts_E.size());
  if (has_fused_kernel(a_NK, b_EKM) && a_NK.size(0) > 0) {
    return at::_grouped_mm(a_NK, b_EKM, group_ends(counts_E, a_NK.device()));
  }
  at::Tensor out_NM = at::empty({a_NK.size(0), b_EKM.size(2)}, a_NK.options());
  int64_t row = 0;
  for (size_t e = 0; e < counts_E.size(); ++e) {
    if (counts_E[e] == 0) continue;
    at::Tensor rows = out_NM.narrow(0, row, counts_E[e]);
    at::mm_out(rows, a_NK.narrow(0, row, counts_E[e]), b_EKM.select(0, static_cast<int64_t>(e)));
    row += counts_E[e];
  }
  LOCUS_CHECK(row == a_NK.size(0), "counts add up to {} of {} rows", row, a_NK.size(0));
  return out_NM;
}

at::Tensor grouped_outer(const at::Tensor& a_NK, const at::Tensor& b_NM,
                         std::span<const int64_t> counts_E, at::ScalarType type) {
  const auto num_groups = static_cast<int64_t>(counts_E.size());
  if (has_fused_kernel(a_NK, b_NM) && a_NK.size(0) > 0) {
    return at::_grouped_mm(a_NK.t(), b_NM, group_ends(counts_E, a_NK.device())).to(type);
  }
  at::Tensor out_EKM =
      at::empty({num_groups, a_NK.size(1), b_NM.size(1)}, a_NK.options().dtype(type));
  int64_t row = 0;
  for (int64_t e = 0; e < num_groups; ++e) {
    const int64_t count = counts_E[static_cast<size_t>(e)];
    at::Tensor out_KM = out_EKM.select(0, e);
    if (count == 0) {
      out_KM.zero_();
    } else if (type == a_NK.scalar_type()) {
      at::mm_out(out_KM, a_NK.narrow(0, row, count).t(), b_NM.narrow(0, row, count));
    } else {
      out_KM.copy_(at::mm(a_NK.narrow(0, row, count).t(), b_NM.narrow(0, row, count)));
    }
    row += count;
  }
  LOCUS_CHECK(row == a_NK.size(0), "counts add up to {} of {} rows", row, a_NK.size(0));
  return out_EKM;
}

}  // namespace locus::ops
