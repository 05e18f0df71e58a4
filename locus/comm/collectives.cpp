#include "locus/comm/collectives.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/full.h>

#include <algorithm>
#include <numeric>

#include "locus/base/error.h"

namespace locus::comm {
namespace {

std::vector<int64_t> with_rows(const at::Tensor& x, int64_t rows) {
  std::vector<int64_t> shape = x.sizes().vec();
  shape[0] = rows;
  return shape;
}

at::Tensor exchange(ProcessGroup& group, const at::Tensor& x_ND,
                    const std::vector<int64_t>& in_rows, const std::vector<int64_t>& out_rows) {
  const int64_t num_rows = std::accumulate(out_rows.begin(), out_rows.end(), int64_t{0});
  const at::Tensor out_MD = at::empty(with_rows(x_ND, num_rows), x_ND.options());
  group.all_to_all(out_MD, x_ND.contiguous(), out_rows, in_rows)->wait();
  return out_MD;
}

std::vector<int64_t> gather_counts(ProcessGroup& group, int64_t count) {
  const at::Tensor count_R = at::empty({group.size()}, at::kLong);
  group.all_gather(count_R, at::full({1}, count, at::kLong))->wait();
  const int64_t* first = count_R.const_data_ptr<int64_t>();
  return {first, first + group.size()};
}

}  // namespace

at::Tensor sum_over(ProcessGroup* group, const at::Tensor& x) {
  if (group == nullptr) return x;
  const at::Tensor sum = x.detach().clone(at::MemoryFormat::Contiguous);
  group->all_reduce(sum, Reduce::kSum)->wait();
  return sum;
}

GatheredRows gather_rows(ProcessGroup* group, const at::Tensor& x_ND) {
  if (group == nullptr) return {x_ND, 0};
  const std::vector<int64_t> rows = gather_counts(*group, x_ND.size(0));
  const at::Tensor x = x_ND.detach().contiguous();
  if (std::all_of(rows.begin(), rows.end(), [&](int64_t n) { return n == rows.front(); })) {
    return gather_equal_rows(group, x);
  }
  // To everyone the same rows: an all-to-all of copies, since an all-gather wants equal numbers.
  const std::vector<int64_t> own(rows.size(), x.size(0));
  const int64_t begin = std::accumulate(rows.begin(), rows.begin() + group->rank(), int64_t{0});
  return {exchange(*group, at::cat(std::vector<at::Tensor>(rows.size(), x)), own, rows), begin};
}

GatheredRows gather_equal_rows(ProcessGroup* group, const at::Tensor& x_ND) {
  if (group == nullptr) return {x_ND, 0};
  const at::Tensor x = x_ND.detach().contiguous();
  const at::Tensor all = at::empty(with_rows(x, x.size(0) * group->size()), x.options());
  group->all_gather(all, x)->wait();
  return {all, x.size(0) * group->rank()};
}

std::vector<std::string> gather_texts(ProcessGroup* group, const std::string& text) {
  if (group == nullptr) return {text};
  const auto size = static_cast<int64_t>(text.size());
  const at::Tensor own = at::empty({size}, at::kByte);
  std::copy(text.begin(), text.end(), static_cast<char*>(own.mutable_data_ptr()));
  const std::vector<int64_t> sizes = gather_counts(*group, size);
  const at::Tensor all = gather_rows(group, own).all;
  const auto* next = static_cast<const char*>(all.const_data_ptr());
  std::vector<std::string> texts;
  for (const int64_t one : sizes) {
    texts.emplace_back(next, static_cast<size_t>(one));
    next += one;
  }
  return texts;
}

}  // namespace locus::comm
