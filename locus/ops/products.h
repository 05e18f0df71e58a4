// Many matrix products at once on the CPU, cut into blocks that the threads take in turn. Float32
// and bfloat16 operands; the sums are float32.
//
// A caller lists its products and says what is to be done with each finished block of the result
// while it is still in the cache: add a bias, apply the activation, round. So an expert's
// pre-activations go to memory once, and a weight is converted while it is read.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

#include "locus/ops/cpu/kernels.h"

namespace locus::ops {

struct Block;

// c [m, n] = a [m, k] b [k, n]. With two parts, a block of the result holds columns of both at
// once: those of the second part lie `n` columns further on in b (SwiGLU's gate and up
// projections).
struct Product {
  cpu::Matrix a, b;
  int64_t m, n, k;
  int parts = 1;
  // Where the result goes: straight to c, else block by block to `finish`.
  float* c = nullptr;
  int64_t c_stride = 0;
  bool accumulate = false;  // c += a b
  const std::function<void(const Block&)>* finish = nullptr;
  int64_t tag = 0;  // for finish: which group of rows, say
};

// Rows row .. row + rows - 1 and columns column .. column + columns - 1 (of each part) of a result.
struct Block {
  const Product* product;
  int64_t row, rows, column, columns;
  const float* c;  // the block, `c_stride` between rows
  int64_t c_stride;
  int64_t part_offset;  // columns between the parts of a row of the block
};

// Computes all products; the order of their blocks is open, the sums within one are not. `compute`
// is the type of the factors, where
// the processor multiplies it and the rows are more than a few; else they take part in float32.
void run_products(const std::vector<Product>& products, cpu::Type compute);

// True for CPU tensors of a type that run_products() computes: the others go through libtorch.
bool has_cpu_kernels(const at::Tensor& x);

cpu::Type cpu_type(const at::Tensor& x);

// A contiguous 2-d tensor, and the same transposed.
cpu::Matrix matrix(const at::Tensor& x);
cpu::Matrix transposed(const at::Tensor& x);

// f(begin, end) over rows of about `row_elements` elements each, split among the threads.
void parallel_rows(int64_t rows, int64_t row_elements,
                   const std::function<void(int64_t, int64_t)>& f);

// Row `index` of a matrix whose rows are contiguous, as an address.
const void* row_address(const at::Tensor& x, int64_t index);
void* mutable_row_address(const at::Tensor& x, int64_t index);

}  // namespace locus::ops
