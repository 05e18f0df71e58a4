// The grouped feed-forward network on the CPU.
//
//   forward    up = x W_up^T, with the activation applied to each block while it is in the cache
//              y  = act W_down^T
//   backward   dact = dy W_down; no block of it leaves the cache: it becomes dup and once more act
//              dW_down = dy^T act, dW_up = dup^T x, dx = dup W_up: one queue of blocks for all
//              three
#include <ATen/ATen.h>

#include "locus/base/error.h"
#include "locus/ops/feed_forward_paths.h"
#include "locus/ops/products.h"

namespace locus::ops {
namespace {

cpu::Gate gate_of(Activation activation) {
  switch (activation) {
    case Activation::kSwiglu: return cpu::Gate::kSwiglu;
    case Activation::kGelu: return cpu::Gate::kGelu;
    case Activation::kGeluTanh: return cpu::Gate::kGeluTanh;
  }
  LOCUS_CHECK(false, "activation {}", static_cast<int>(activation));
}

// The rows of one group.
struct Group {
  int64_t index, row, rows;
};

std::vector<Group> groups(const std::vector<int64_t>& counts_E) {
  std::vector<Group> result;
  int64_t row = 0;
  for (size_t e = 0; e < counts_E.size(); ++e) {
    result.push_back({static_cast<int64_t>(e), row, counts_E[e]});
    row += counts_E[e];
  }
  return result;
}

// x[rows of the group] * weight[e]^T (the weight's rows are the result's columns).
Product forward_product(const Group& g, const at::Tensor& x_NK, const at::Tensor& weight_EMK) {
  return {.a = matrix(x_NK).block(g.row, 0),
          .b = transposed(weight_EMK.select(0, g.index)),
          .m = g.rows,
          .n = weight_EMK.size(1),
          .k = weight_EMK.size(2),
          .tag = g.index};
}

// d[rows of the group] * weight[e].
Product input_gradient_product(const Group& g, const at::Tensor& d_NM,
                               const at::Tensor& weight_EMK) {
  return {.a = matrix(d_NM).block(g.row, 0),
          .b = matrix(weight_EMK.select(0, g.index)),
          .m = g.rows,
          .n = weight_EMK.size(2),
          .k = weight_EMK.size(1),
          .tag = g.index};
}

// d[rows of the group]^T * x[rows of the group].
Product weight_gradient_product(const Group& g, const at::Tensor& d_NM, const at::Tensor& x_NK) {
  return {.a = transposed(d_NM).block(0, g.row),
          .b = matrix(x_NK).block(g.row, 0),
          .m = d_NM.size(1),
          .n = x_NK.size(1),
          .k = g.rows,
          .tag = g.index};
}

using Finish = std::function<void(const Block&)>;

// Rounds each block into its place; `first_row` says where in `out` a product's rows begin.
template <class FirstRow>
Finish store_in(const at::Tensor& out, FirstRow first_row) {
  return [out, first_row, type = cpu_type(out)](const Block& block) {
    auto* row =
        static_cast<char*>(mutable_row_address(out, first_row(block.product->tag) + block.row));
    cpu::kernels().store(block.c, block.c_stride, block.rows, block.columns, nullptr, type,
                         row + block.column * out.element_size(), out.stride(0));
  };
}

std::vector<int64_t> first_rows(const std::vector<int64_t>& counts_E) {
  std::vector<int64_t> rows;
  for (const Group& g : groups(counts_E)) rows.push_back(g.row);
  return rows;
}

// Sends a product's result into rows of `out`: float32 directly, else through `store`.
void write_to(Product& product, const at::Tensor& out, int64_t row, const Finish& store) {
  if (out.scalar_type() == at::kFloat) {
    product.c = out.mutable_data_ptr<float>() + row * out.stride(0);
    product.c_stride = out.stride(0);
  } else {
    product.finish = &store;
  }
}

const float* bias_row(const at::Tensor& bias_EM, int64_t e) {
  return bias_EM.defined() ? bias_EM.const_data_ptr<float>() + e * bias_EM.size(1) : nullptr;
}

// Biases take part in float32.
at::Tensor float_bias(const at::Tensor& bias) {
  return bias.defined() ? bias.to(at::kFloat).contiguous() : bias;
}

}  // namespace

FeedForwardResult feed_forward_cpu(const at::Tensor& x_ND, const std::vector<int64_t>& counts_E,
                                   const FeedForwardWeights& weights, Activation activation) {
  const cpu::Kernels& kernels = cpu::kernels();
  const cpu::Type type = cpu_type(x_ND);
  const cpu::Gate gate = gate_of(activation);
  const int64_t width = weights.down_EDF.size(2);
  const int64_t size = x_ND.element_size();
  const at::Tensor up_bias_EU = float_bias(weights.up_bias_EU);
  const at::Tensor down_bias_ED = float_bias(weights.down_bias_ED);
  const at::Tensor up_NU = at::empty({x_ND.size(0), weights.up_EUD.size(1)}, x_ND.options());
  const at::Tensor act_NF = at::empty({x_ND.size(0), width}, x_ND.options());
  const at::Tensor y_ND = at::empty_like(x_ND);
  const std::vector<int64_t> starts = first_rows(counts_E);

  const Finish activate = [&](const Block& block) {
    const Product& p = *block.product;
    const int64_t first = starts[static_cast<size_t>(p.tag)] + block.row;
    auto* up = static_cast<char*>(mutable_row_address(up_NU, first)) + block.column * size;
    auto* act = static_cast<char*>(mutable_row_address(act_NF, first)) + block.column * size;
    const float* bias = bias_row(up_bias_EU, p.tag);
    for (int part = 0; part < p.parts; ++part) {
      kernels.store(block.c + part * block.part_offset, block.c_stride, block.rows, block.columns,
                    bias == nullptr ? nullptr : bias + part * p.n + block.column, type,
                    up + part * p.n * size, up_NU.size(1));
    }
    for (int64_t i = 0; i < block.rows; ++i) {
      kernels.activate(gate, type, up + i * up_NU.size(1) * size, p.n, block.columns,
                       act + i * width * size);
    }
  };
  const Finish add_bias = [&](const Block& block) {
    const Product& p = *block.product;
    const int64_t first = starts[static_cast<size_t>(p.tag)] + block.row;
    const float* bias = bias_row(down_bias_ED, p.tag);
    kernels.store(block.c, block.c_stride, block.rows, block.columns,
                  bias == nullptr ? nullptr : bias + block.column, type,
                  static_cast<char*>(mutable_row_address(y_ND, first)) + block.column * size,
                  y_ND.size(1));
  };

  std::vector<Product> up, down;
  for (const Group& g : groups(counts_E)) {
    up.push_back(forward_product(g, x_ND, weights.up_EUD));
    up.back().parts = activation == Activation::kSwiglu ? 2 : 1;
    up.back().n /= up.back().parts;
    up.back().finish = &activate;
    down.push_back(forward_product(g, act_NF, weights.down_EDF));
    if (down_bias_ED.defined()) {
      down.back().finish = &add_bias;
    } else {
      write_to(down.back(), y_ND, g.row, add_bias);
    }
  }
  run_products(up, type);
  run_products(down, type);
  return {y_ND, up_NU};
}

FeedForwardGradients feed_forward_backward_cpu(const at::Tensor& dy_ND, const at::Tensor& x_ND,
                                               const at::Tensor& up_NU,
                                               const std::vector<int64_t>& counts_E,
                                               const FeedForwardWeights& weights,
                                               Activation activation) {
  const cpu::Kernels& kernels = cpu::kernels();
  const cpu::Type type = cpu_type(x_ND);
  const cpu::Gate gate = gate_of(activation);
  const int64_t width = weights.down_EDF.size(2);
  const int64_t size = x_ND.element_size();
  const at::Tensor dup_NU = at::empty_like(up_NU);
  const at::Tensor act_NF = at::empty({x_ND.size(0), width}, x_ND.options());
  const std::vector<int64_t> starts = first_rows(counts_E);

  const Finish differentiate = [&](const Block& block) {
    for (int64_t i = 0; i < block.rows; ++i) {
      const int64_t row = starts[static_cast<size_t>(block.product->tag)] + block.row + i;
      const int64_t offset = block.column * size;
      kernels.activate_backward(gate, type, block.c + i * block.c_stride,
                                static_cast<const char*>(row_address(up_NU, row)) + offset, width,
                                block.columns,
                                static_cast<char*>(mutable_row_address(dup_NU, row)) + offset,
                                static_cast<char*>(mutable_row_address(act_NF, row)) + offset);
    }
  };
  std::vector<Product> dact;
  for (const Group& g : groups(counts_E)) {
    dact.push_back(input_gradient_product(g, dy_ND, weights.down_EDF));
    dact.back().finish = &differentiate;
  }
  run_products(dact, type);

  FeedForwardGradients d;
  d.up_EUD = at::empty_like(weights.up_EUD, at::MemoryFormat::Contiguous);
  d.down_EDF = at::empty_like(weights.down_EDF, at::MemoryFormat::Contiguous);
  d.x_ND = at::empty_like(x_ND);
  // The gradients of all groups as one matrix each, group below group.
  const at::Tensor dup_flat = d.up_EUD.flatten(0, 1);
  const at::Tensor ddown_flat = d.down_EDF.flatten(0, 1);
  const int64_t up_rows = d.up_EUD.size(1);
  const int64_t down_rows = d.down_EDF.size(1);
  const Finish store_x =
      store_in(d.x_ND, [&](int64_t e) { return starts[static_cast<size_t>(e)]; });
  const Finish store_up = store_in(dup_flat, [=](int64_t e) { return e * up_rows; });
  const Finish store_down = store_in(ddown_flat, [=](int64_t e) { return e * down_rows; });
  std::vector<Product> products;
  for (const Group& g : groups(counts_E)) {
    products.push_back(weight_gradient_product(g, dy_ND, act_NF));
    write_to(products.back(), ddown_flat, g.index * down_rows, store_down);
    products.push_back(weight_gradient_product(g, dup_NU, x_ND));
    write_to(products.back(), dup_flat, g.index * up_rows, store_up);
    products.push_back(input_gradient_product(g, dup_NU, weights.up_EUD));
    write_to(products.back(), d.x_ND, g.row, store_x);
  }
  run_products(products, type);
  d.up_bias_EU = group_bias_gradient(dup_NU, weights.up_bias_EU, counts_E);
  d.down_bias_ED = group_bias_gradient(dy_ND, weights.down_bias_ED, counts_E);
  return d;
}

}  // namespace locus::ops
