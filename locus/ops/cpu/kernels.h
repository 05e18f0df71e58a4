// The innermost loops on the CPU, compiled once for each instruction set and chosen when the
// program runs: blocks of matrix products and passes over rows. Torch-free: everything here is
// pointers.
//
// Products are cut into blocks by the callers (ops/products.h). A block's right-hand side is
// packed: column panels of `column_tile` columns, within a panel k by k, so that the loop over k
// reads it from front to back; bfloat16 panels hold pairs of k. Weights are converted while they
// are packed: no copy of them in the compute type ever exists.
//
// All sums are float32, in one order that depends on the shapes alone.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

namespace locus::ops::cpu {

enum class Type { kFloat, kBfloat16 };

// Element (i, j) lies at i * row_stride + j * column_stride; one of the strides is 1 (elements).
struct Matrix {
  const void* data;
  Type type;
  int64_t row_stride, column_stride;

  Matrix block(int64_t row, int64_t column) const {
    const int64_t size = type == Type::kFloat ? 4 : 2;
    const auto* bytes = static_cast<const char*>(data);
    return {bytes + (row * row_stride + column * column_stride) * size, type, row_stride,
            column_stride};
  }
};

enum class Gate { kSwiglu, kGelu, kGeluTanh };

struct Kernels {
  std::string_view name;  // baseline | avx2 | avx512 | avx512_bf16
  bool (*supported)();
  int64_t row_tile, column_tile;
  bool bfloat16_products;  // else bfloat16 operands take part as float32, weights unrounded

  // Packs b [k, n] for products of `compute` type. `out` is 64-byte aligned and holds
  // packed_floats(k, n) floats.
  void (*pack)(const Matrix& b, int64_t k, int64_t n, Type compute, void* out);

  // c [m, n] = a [m, k] * packed b, or += with `accumulate`.
  void (*multiply)(const Matrix& a, int64_t m, int64_t k, const void* packed, int64_t n,
                   Type compute, float* c, int64_t c_stride, bool accumulate);

  // c [m, n] = a [m, k] b^T in float32 whatever b's type, for a handful of rows, b [n, k] with
  // `b_stride` between its rows: as fast as b can be read, where packing it would cost more than
  // the product.
  void (*multiply_few)(const float* a, int64_t m, int64_t k, Type b_type, const void* b,
                       int64_t b_stride, int64_t n, float* c, int64_t c_stride);

  // out = c (+ bias, where not null), rounded to `type`.
  void (*store)(const float* c, int64_t c_stride, int64_t rows, int64_t columns, const float* bias,
                Type type, void* out, int64_t out_stride);

  // One row of the activation. `up` holds the pre-activations: gate then up, `distance` elements
  // apart, for kSwiglu; one part otherwise. out[n] = act(up).
  void (*activate)(Gate gate, Type type, const void* up, int64_t distance, int64_t n, void* out);
  // From d(out) and `up`: d(up), laid out as up, and once more out itself.
  void (*activate_backward)(Gate gate, Type type, const float* dout, const void* up,
                            int64_t distance, int64_t n, void* dup, void* out);

  // out = x / rms(x) * weight; returns 1 / rms(x).
  float (*rms_norm)(Type type, const void* x, const float* weight, int64_t n, float eps, void* out);
  // dx, and dweight += dout * x / rms.
  void (*rms_norm_backward)(Type type, const void* dout, const void* x, const float* weight,
                            float inverse_rms, int64_t n, void* dx, float* dweight);

  // Rotates the halves of one head by the angles of the n/2 pairs; sign -1: back. In place allowed.
  void (*rotate)(Type type, const void* x, const float* cos, const float* sin, float sign,
                 int64_t n, void* out);

  // sum (float32) += scale * x.
  void (*add_scaled)(Type type, const void* x, float scale, int64_t n, float* sum);
  // dy = scale * dout; returns the dot product of dout and y.
  float (*scale_and_dot)(Type type, const void* dout, const void* y, float scale, int64_t n,
                         void* dy);

  // sums[g] = the sum of group g of a row of n channels: n / groups of them each, one more in each
  // of the first n % groups.
  void (*group_sums)(Type type, const void* x, int64_t n, int64_t groups, float* sums);
  // dx = of each channel, the value of its group.
  void (*spread_groups)(Type type, const float* values, int64_t n, int64_t groups, void* dx);

  // One row of logits: the logarithm of the sum of their exponentials.
  float (*log_sum_exp)(const float* logits, int64_t n);
  // logits = exp(logits - log_sum).
  void (*softmax_of)(float* logits, int64_t n, float log_sum);

  int64_t packed_floats(int64_t k, int64_t n) const {
    return (n + column_tile - 1) / column_tile * column_tile * ((k + 1) / 2 * 2);
  }
};

// Those that were compiled in, the best last; not all of them run on every processor.
std::span<const Kernels* const> compiled_kernels();
// Whether this processor multiplies pairs of bfloat16 faster than float32, where it has both.
bool bfloat16_products_pay();
// The best that this processor can run, unless chosen otherwise.
const Kernels& kernels();
// For tests and benchmarks; empty: the best. ConfigError when there is none of that name here.
void use_kernels(std::string_view name);

}  // namespace locus::ops::cpu
