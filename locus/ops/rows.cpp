// Kernels for the CPU with a device-agnostic path of ATen operations beside each.
//
// The CPU kernels go token by token through lists of assignments (a counting sort by token), so
// that threads never write to the same row and every sum has one fixed order.

#include "locus/ops/rows.h"

#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/bincount.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <numeric>

#include "locus/base/error.h"

namespace locus::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;
using torch::autograd::Variable;

// Assignments listed by key: those of key k are items[starts[k]] .. items[starts[k + 1] - 1], in
// order.
struct Buckets {
  std::vector<int64_t> starts;
  std::vector<int64_t> items;
};

Buckets bucket(const at::Tensor& key_N, int64_t num_keys) {
  const int64_t num_items = key_N.numel();
  const int64_t* key = key_N.const_data_ptr<int64_t>();
  Buckets buckets;
  buckets.starts.assign(static_cast<size_t>(num_keys) + 1, 0);
  for (int64_t n = 0; n < num_items; ++n) {
    LOCUS_CHECK(key[n] >= 0 && key[n] < num_keys, "index {} of {}", key[n], num_keys);
    ++buckets.starts[static_cast<size_t>(key[n]) + 1];
  }
  std::partial_sum(buckets.starts.begin(), buckets.starts.end(), buckets.starts.begin());
  std::vector<int64_t> next(buckets.starts.begin(), buckets.starts.end() - 1);
  buckets.items.resize(static_cast<size_t>(num_items));
  for (int64_t n = 0; n < num_items; ++n) {
    buckets.items[static_cast<size_t>(next[static_cast<size_t>(key[n])]++)] = n;
  }
  return buckets;
}

int64_t rows_per_task(int64_t row_size) { return std::max<int64_t>(1, 16384 / (row_size + 1)); }

// out[t] = sum of weight[n] * y[n] over the bucket of t; weight nullptr: all ones.
template <class T, class W>
void sum_buckets(const T* y, const W* weight, const Buckets& buckets, int64_t num_tokens,
                 int64_t dim, T* out) {
  at::parallel_for(0, num_tokens, rows_per_task(dim), [&](int64_t begin, int64_t end) {
    std::vector<W> sum(static_cast<size_t>(dim));
    for (int64_t t = begin; t < end; ++t) {
      std::fill(sum.begin(), sum.end(), W(0));
      const auto first = static_cast<size_t>(buckets.starts[static_cast<size_t>(t)]);
      const auto last = static_cast<size_t>(buckets.starts[static_cast<size_t>(t) + 1]);
      for (size_t i = first; i < last; ++i) {
        const int64_t n = buckets.items[i];
        const W scale = weight == nullptr ? W(1) : weight[n];
        const T* row = y + n * dim;
        for (int64_t d = 0; d < dim; ++d)
          sum[static_cast<size_t>(d)] += scale * static_cast<W>(row[d]);
      }
      for (int64_t d = 0; d < dim; ++d)
        out[t * dim + d] = static_cast<T>(sum[static_cast<size_t>(d)]);
    }
  });
}

// Weights are float32 beside any activation type but float64, whose weights are float64.
at::ScalarType weight_type(at::ScalarType activation) {
  return activation == at::kDouble ? at::kDouble : at::kFloat;
}

at::Tensor scatter_sum(const at::Tensor& y_ND, const at::Tensor& token_N,
                       const at::Tensor& weight_N, int64_t num_tokens) {
  const int64_t dim = y_ND.size(1);
  if (!y_ND.is_cpu()) {
    at::Tensor rows = y_ND.to(weight_type(y_ND.scalar_type()));
    if (weight_N.defined()) rows = rows * weight_N.unsqueeze(1);
    return at::zeros({num_tokens, dim}, rows.options())
        .index_add_(0, token_N, rows)
        .to(y_ND.dtype());
  }
  const Buckets buckets = bucket(token_N, num_tokens);
  const at::Tensor out = at::empty({num_tokens, dim}, y_ND.options());
  AT_DISPATCH_FLOATING_TYPES_AND2(at::kBFloat16, at::kHalf, y_ND.scalar_type(), "scatter_sum", [&] {
    using W = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;
    const W* weight = weight_N.defined() ? weight_N.const_data_ptr<W>() : nullptr;
    sum_buckets<scalar_t, W>(y_ND.const_data_ptr<scalar_t>(), weight, buckets, num_tokens, dim,
                             out.mutable_data_ptr<scalar_t>());
  });
  return out;
}

// Gradients of combine_rows: dy[n] = weight[n] * dout[token[n]], dweight[n] = <y[n],
// dout[token[n]]>.
template <class T, class W>
void combine_backward(const T* dout, const T* y, const W* weight, const int64_t* token,
                      int64_t num_rows, int64_t dim, T* dy, W* dweight) {
  at::parallel_for(0, num_rows, rows_per_task(dim), [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const T* from = dout + token[n] * dim;
      const T* row = y + n * dim;
      const W scale = weight[n];
      W dot = 0;
      for (int64_t d = 0; d < dim; ++d) {
        const W g = static_cast<W>(from[d]);
        dot += g * static_cast<W>(row[d]);
        dy[n * dim + d] = static_cast<T>(scale * g);
      }
      dweight[n] = dot;
    }
  });
}

class GatherRows : public torch::autograd::Function<GatherRows> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x_TD,
                            const at::Tensor& token_N) {
    ctx->save_for_backward({token_N});
    ctx->saved_data["num_tokens"] = x_TD.size(0);
    return at::index_select(x_TD, 0, token_N);
  }
  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const at::Tensor token_N = ctx->get_saved_variables()[0];
    return {scatter_sum(grads[0].contiguous(), token_N, {}, ctx->saved_data["num_tokens"].toInt()),
            {}};
  }
};

class CombineRows : public torch::autograd::Function<CombineRows> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& y_ND, const at::Tensor& token_N,
                            const at::Tensor& weight_N, int64_t num_tokens) {
    ctx->save_for_backward({y_ND, token_N, weight_N});
    return scatter_sum(y_ND, token_N, weight_N, num_tokens);
  }
  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &y_ND = saved[0], &token_N = saved[1], &weight_N = saved[2];
    const at::Tensor dout_TD = grads[0].contiguous();
    if (!y_ND.is_cpu()) {
      const at::Tensor rows = at::index_select(dout_TD, 0, token_N).to(weight_N.dtype());
      return {(rows * weight_N.unsqueeze(1)).to(y_ND.dtype()),
              {},
              (rows * y_ND.to(weight_N.dtype())).sum(1),
              {}};
    }
    const at::Tensor dy_ND = at::empty_like(y_ND);
    const at::Tensor dweight_N = at::empty_like(weight_N);
    AT_DISPATCH_FLOATING_TYPES_AND2(
        at::kBFloat16, at::kHalf, y_ND.scalar_type(), "combine_rows", [&] {
          using W = std::conditional_t<std::is_same_v<scalar_t, double>, double, float>;
          combine_backward<scalar_t, W>(
              dout_TD.const_data_ptr<scalar_t>(), y_ND.const_data_ptr<scalar_t>(),
              weight_N.const_data_ptr<W>(), token_N.const_data_ptr<int64_t>(), y_ND.size(0),
              y_ND.size(1), dy_ND.mutable_data_ptr<scalar_t>(), dweight_N.mutable_data_ptr<W>());
        });
    return {dy_ND, {}, dweight_N, {}};
  }
};

}  // namespace

ExpertOrder sort_by_expert(const at::Tensor& expert_N, int64_t num_experts) {
  if (!expert_N.is_cpu()) {
    const at::Tensor counts = at::bincount(expert_N, {}, num_experts).cpu();
    const int64_t* first = counts.const_data_ptr<int64_t>();
    return {std::get<1>(at::sort(expert_N, /*stable=*/true, 0, false)),
            {first, first + num_experts}};
  }
  const Buckets buckets = bucket(expert_N.contiguous(), num_experts);
  ExpertOrder order;
  order.order_N = at::empty({expert_N.numel()}, expert_N.options());
  std::copy(buckets.items.begin(), buckets.items.end(), order.order_N.mutable_data_ptr<int64_t>());
  order.counts_E.resize(static_cast<size_t>(num_experts));
  for (size_t e = 0; e < order.counts_E.size(); ++e) {
    order.counts_E[e] = buckets.starts[e + 1] - buckets.starts[e];
  }
  return order;
}

at::Tensor gather_rows(const at::Tensor& x_TD, const at::Tensor& token_N) {
  return GatherRows::apply(x_TD, token_N.contiguous());
}

at::Tensor combine_rows(const at::Tensor& y_ND, const at::Tensor& token_N,
                        const at::Tensor& weight_N, int64_t num_tokens) {
  const at::Tensor weight = weight_N.to(weight_type(y_ND.scalar_type())).contiguous();
  return CombineRows::apply(y_ND.contiguous(), token_N.contiguous(), weight, num_tokens);
}

}  // namespace locus::ops
