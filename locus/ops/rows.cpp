// The CPU kernels go token by token through lists of assignments (a counting sort by token), so
// that threads never write to the same row and every sum has one fixed order. Beside each there is
// a path of libtorch's operations for other devices and types.

#include "locus/ops/rows.h"

#include <ATen/TensorOperators.h>
#include <ATen/ops/arange.h>
#include <ATen/ops/bincount.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/index_select.h>
#include <ATen/ops/sort.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/custom_function.h>

#include <numeric>

#include "locus/base/error.h"
#include "locus/ops/products.h"

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

// Weights are float32 beside any activation type but float64, whose weights are float64.
at::ScalarType weight_type(at::ScalarType activation) {
  return activation == at::kDouble ? at::kDouble : at::kFloat;
}

// out[t] = sum of weight[n] * y[n] over the bucket of t; weight undefined: all ones.
at::Tensor sum_buckets(const at::Tensor& y_ND, const at::Tensor& token_N,
                       const at::Tensor& weight_N, int64_t num_tokens) {
  const int64_t dim = y_ND.size(1);
  const cpu::Type type = cpu_type(y_ND);
  const Buckets buckets = bucket(token_N, num_tokens);
  const float* weight = weight_N.defined() ? weight_N.const_data_ptr<float>() : nullptr;
  const at::Tensor out_TD = at::empty({num_tokens, dim}, y_ND.options());
  parallel_rows(num_tokens, 2 * dim, [&](int64_t begin, int64_t end) {
    std::vector<float> sum(static_cast<size_t>(dim));
    for (int64_t t = begin; t < end; ++t) {
      std::fill(sum.begin(), sum.end(), 0.0f);
      const auto last = static_cast<size_t>(buckets.starts[static_cast<size_t>(t) + 1]);
      for (auto i = static_cast<size_t>(buckets.starts[static_cast<size_t>(t)]); i < last; ++i) {
        const int64_t n = buckets.items[i];
        cpu::kernels().add_scaled(type, row_address(y_ND, n), weight == nullptr ? 1.0f : weight[n],
                                  dim, sum.data());
      }
      cpu::kernels().store(sum.data(), dim, 1, dim, nullptr, type, mutable_row_address(out_TD, t),
                           dim);
    }
  });
  return out_TD;
}

at::Tensor scatter_sum(const at::Tensor& y_ND, const at::Tensor& token_N,
                       const at::Tensor& weight_N, int64_t num_tokens) {
  if (has_cpu_kernels(y_ND)) return sum_buckets(y_ND, token_N, weight_N, num_tokens);
  at::Tensor rows = y_ND.to(weight_type(y_ND.scalar_type()));
  if (weight_N.defined()) rows = rows * weight_N.unsqueeze(1);
  return at::zeros({num_tokens, y_ND.size(1)}, rows.options())
      .index_add_(0, token_N, rows)
      .to(y_ND.dtype());
}

struct CombineGradients {
  at::Tensor dy_ND, dweight_N;
};

// dy[n] = weight[n] * dout[token[n]], dweight[n] = <y[n], dout[token[n]]>.
CombineGradients combine_backward(const at::Tensor& dout_TD, const at::Tensor& y_ND,
                                  const at::Tensor& token_N, const at::Tensor& weight_N) {
  if (!has_cpu_kernels(y_ND)) {
    const at::Tensor rows = at::index_select(dout_TD, 0, token_N).to(weight_N.dtype());
    return {(rows * weight_N.unsqueeze(1)).to(y_ND.dtype()),
            (rows * y_ND.to(weight_N.dtype())).sum(1)};
  }
  const int64_t dim = y_ND.size(1);
  const cpu::Type type = cpu_type(y_ND);
  const CombineGradients d{at::empty_like(y_ND), at::empty_like(weight_N)};
  const auto* token = token_N.const_data_ptr<int64_t>();
  const auto* weight = weight_N.const_data_ptr<float>();
  auto* dweight = d.dweight_N.mutable_data_ptr<float>();
  parallel_rows(y_ND.size(0), 2 * dim, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      dweight[n] =
          cpu::kernels().scale_and_dot(type, row_address(dout_TD, token[n]), row_address(y_ND, n),
                                       weight[n], dim, mutable_row_address(d.dy_ND, n));
    }
  });
  return d;
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
    const CombineGradients d = combine_backward(dout_TD, y_ND, token_N, weight_N);
    return {d.dy_ND, {}, d.dweight_N, {}};
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
