#include "locus/ops/products.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>

#include "locus/base/error.h"

namespace locus::ops {
namespace {

// A packed strip of b: so many columns, and of long sums so many terms, at a time. Strip and block
// together fit the second-level cache.
constexpr int64_t kStripColumns = 512;
constexpr int64_t kMaxDepth = 2048;
constexpr int64_t kBlockRows = 126;
constexpr int64_t kDeepBlockRows = 504;  // where b has to be packed again for every block of rows
constexpr int64_t kItemsPerThread = 16;
constexpr int64_t kLargestShare = 4;  // no item is more than 1 / (4 threads) of all work
constexpr int64_t kNarrowestStrip = 64;
// So few rows are not worth packing b for.
constexpr int64_t kFewRows = 4;
// So few multiplications are not worth a second thread.
constexpr double kSmallWork = 1 << 20;

struct Free {
  void operator()(float* p) const { std::free(p); }
};
using Buffer = std::unique_ptr<float[], Free>;

Buffer make_buffer(int64_t floats) {
  auto* p = static_cast<float*>(std::aligned_alloc(64, static_cast<size_t>(floats) * 4));
  if (p == nullptr) throw std::bad_alloc();
  return Buffer(p);
}

// Kept by each thread: a fresh one would be paged in anew for every product.
struct Workspace {
  Buffer packed = make_buffer(kMaxDepth * kStripColumns);
  Buffer block = make_buffer(kDeepBlockRows * kStripColumns);
};

// A strip of columns and a range of rows of one product.
struct Item {
  const Product* product;
  int64_t row, rows, column, columns;
};

double multiplications(const std::vector<Product>& products) {
  double sum = 0.0;
  for (const Product& p : products)
    sum += static_cast<double>(p.m) * static_cast<double>(p.n * p.parts) * static_cast<double>(p.k);
  return sum;
}

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }
int64_t round_up(int64_t a, int64_t b) { return divide_up(a, b) * b; }

struct ItemSize {
  int64_t rows, columns;
};

// Large enough to pay for packing, small enough that no thread waits long for the last one. Where
// the borders lie changes no sum: each element of a result is computed in one item.
ItemSize item_size(const Product& p, double work, int64_t num_threads,
                   const cpu::Kernels& kernels) {
  const auto depth = static_cast<double>(std::max<int64_t>(1, p.k * p.parts));
  int64_t columns = std::min(kStripColumns / p.parts, p.n);
  const double wanted = work / static_cast<double>(kItemsPerThread * num_threads) / depth;
  int64_t rows = std::max(2 * kBlockRows, static_cast<int64_t>(wanted) / columns);
  rows = std::min(rows, p.m);
  const auto most = static_cast<int64_t>(work / static_cast<double>(kLargestShare * num_threads) /
                                         depth);  // elements of the result
  if (rows * columns > most) rows = std::min(p.m, std::max(kBlockRows, most / columns));
  if (rows * columns > most) {
    const int64_t narrow = most / rows / kernels.column_tile * kernels.column_tile;
    columns = std::min(columns, std::max(kNarrowestStrip, narrow));
  }
  return {round_up(divide_up(p.m, divide_up(p.m, rows)), kernels.row_tile), columns};
}

std::vector<Item> cut(const std::vector<Product>& products, double work, int64_t num_threads,
                      const cpu::Kernels& kernels) {
  std::vector<Item> items;
  for (const Product& p : products) {
    if (p.m == 0 || p.n == 0) continue;
    LOCUS_CHECK(p.parts == 1 || (p.parts == 2 && p.c == nullptr), "{} parts", p.parts);
    LOCUS_CHECK(p.c != nullptr || (p.finish != nullptr && !p.accumulate), "no place for a product");
    const auto [rows, columns] = item_size(p, work, num_threads, kernels);
    for (int64_t column = 0; column < p.n; column += columns) {
      for (int64_t row = 0; row < p.m; row += rows) {
        items.push_back(
            {&p, row, std::min(rows, p.m - row), column, std::min(columns, p.n - column)});
      }
    }
  }
  return items;
}

class Worker {
 public:
  Worker(const cpu::Kernels& kernels, cpu::Type compute, Workspace& workspace)
      : kernels_(kernels), compute_(compute), workspace_(workspace) {}

  void run(const Item& item) {
    const Product& p = *item.product;
    if (is_few(p)) {
      run_few(item);
      return;
    }
    // The next item of the same strip finds it packed already.
    if (p.k <= kMaxDepth && (packed_product_ != &p || packed_column_ != item.column)) {
      pack(item, 0, p.k);
      packed_product_ = &p;
      packed_column_ = item.column;
    }
    const int64_t rows_at_once = p.k <= kMaxDepth ? kBlockRows : kDeepBlockRows;
    for (int64_t row = item.row; row < item.row + item.rows; row += rows_at_once) {
      const int64_t rows = std::min(rows_at_once, item.row + item.rows - row);
      const bool direct = p.c != nullptr;
      float* c = direct ? p.c + row * p.c_stride + item.column : workspace_.block.get();
      const int64_t c_stride = direct ? p.c_stride : part_offset(item) * p.parts;
      const bool accumulate = direct && p.accumulate;
      if (p.k == 0 && !accumulate) clear(c, c_stride, rows, item.columns, p.parts);
      for (int64_t k0 = 0; k0 < p.k; k0 += kMaxDepth) {
        const int64_t depth = std::min(kMaxDepth, p.k - k0);
        if (p.k > kMaxDepth) {
          pack(item, k0, depth);
          packed_product_ = nullptr;
        }
        multiply(item, row, rows, k0, depth, c, c_stride, accumulate || k0 > 0);
      }
      if (p.finish != nullptr) {
        (*p.finish)({&p, row, rows, item.column, item.columns, c, c_stride, part_offset(item)});
      }
    }
  }

 private:
  // Parts begin at whole panels of the packed strip.
  int64_t part_offset(const Item& item) const {
    return divide_up(item.columns, kernels_.column_tile) * kernels_.column_tile;
  }

  static bool is_few(const Product& p) {
    return p.m <= kFewRows && p.b.row_stride == 1 && p.a.column_stride == 1 && !p.accumulate &&
           p.m * p.k <= kMaxDepth * kStripColumns;
  }

  void run_few(const Item& item) {
    const Product& p = *item.product;
    packed_product_ = nullptr;
    float* a = workspace_.packed.get();
    std::fill_n(a, p.m * p.k, 0.0f);
    for (int64_t i = 0; i < p.m; ++i) {
      kernels_.add_scaled(p.a.type, p.a.block(i, 0).data, 1.0f, p.k, a + i * p.k);
    }
    float* c = p.c != nullptr ? p.c + item.column : workspace_.block.get();
    const int64_t c_stride = p.c != nullptr ? p.c_stride : part_offset(item) * p.parts;
    for (int part = 0; part < p.parts; ++part) {
      const cpu::Matrix b = p.b.block(0, part * p.n + item.column);
      kernels_.multiply_few(a, p.m, p.k, b.type, b.data, b.column_stride, item.columns,
                            c + part * part_offset(item), c_stride);
    }
    if (p.finish != nullptr) {
      (*p.finish)({&p, 0, p.m, item.column, item.columns, c, c_stride, part_offset(item)});
    }
  }

  void pack(const Item& item, int64_t k0, int64_t depth) {
    const Product& p = *item.product;
    for (int part = 0; part < p.parts; ++part) {
      kernels_.pack(p.b.block(k0, part * p.n + item.column), depth, item.columns, compute_,
                    packed(item, part, depth));
    }
  }

  void multiply(const Item& item, int64_t row, int64_t rows, int64_t k0, int64_t depth, float* c,
                int64_t c_stride, bool accumulate) {
    const Product& p = *item.product;
    for (int part = 0; part < p.parts; ++part) {
      kernels_.multiply(p.a.block(row, k0), rows, depth, packed(item, part, depth), item.columns,
                        compute_, c + part * part_offset(item), c_stride, accumulate);
    }
  }

  float* packed(const Item& item, int part, int64_t depth) {
    return workspace_.packed.get() + part * kernels_.packed_floats(depth, item.columns);
  }

  void clear(float* c, int64_t c_stride, int64_t rows, int64_t columns, int parts) {
    const int64_t width = parts == 1 ? columns : c_stride;
    for (int64_t i = 0; i < rows; ++i) std::fill_n(c + i * c_stride, width, 0.0f);
  }

  const cpu::Kernels& kernels_;
  cpu::Type compute_;
  Workspace& workspace_;
  const Product* packed_product_ = nullptr;  // whose strip lies in the workspace, from this column
  int64_t packed_column_ = 0;
};

}  // namespace

void run_products(const std::vector<Product>& products, cpu::Type compute) {
  const int64_t num_threads = at::get_num_threads();
  const double work = multiplications(products);
  const cpu::Kernels& kernels = cpu::kernels();
  const std::vector<Item> items = cut(products, work, num_threads, kernels);
  const int64_t num_workers =
      work < kSmallWork ? 1 : std::min<int64_t>(num_threads, static_cast<int64_t>(items.size()));
  std::atomic<size_t> next = 0;
  at::parallel_for(0, num_workers, 1, [&](int64_t begin, int64_t end) {
    thread_local Workspace workspace;
    Worker worker(kernels, compute, workspace);
    for (int64_t i = begin; i < end; ++i) {
      for (size_t item = next++; item < items.size(); item = next++) worker.run(items[item]);
    }
  });
}

bool has_cpu_kernels(const at::Tensor& x) {
  return x.is_cpu() && (x.scalar_type() == at::kFloat || x.scalar_type() == at::kBFloat16);
}

cpu::Type cpu_type(const at::Tensor& x) {
  LOCUS_CHECK(has_cpu_kernels(x), "no kernels for {} on {}", at::toString(x.scalar_type()),
              x.device().str());
  return x.scalar_type() == at::kFloat ? cpu::Type::kFloat : cpu::Type::kBfloat16;
}

cpu::Matrix matrix(const at::Tensor& x) {
  LOCUS_CHECK(x.dim() == 2 && x.is_contiguous(), "{} dimensions, or not contiguous", x.dim());
  return {x.const_data_ptr(), cpu_type(x), x.size(1), 1};
}

cpu::Matrix transposed(const at::Tensor& x) {
  cpu::Matrix m = matrix(x);
  std::swap(m.row_stride, m.column_stride);
  return m;
}

void parallel_rows(int64_t rows, int64_t row_elements,
                   const std::function<void(int64_t, int64_t)>& f) {
  const int64_t grain = std::max<int64_t>(1, 16384 / (row_elements + 1));
  at::parallel_for(0, rows, grain, f);
}

const void* row_address(const at::Tensor& x, int64_t index) {
  return static_cast<const char*>(x.const_data_ptr()) + index * x.stride(0) * x.element_size();
}

void* mutable_row_address(const at::Tensor& x, int64_t index) {
  return static_cast<char*>(x.mutable_data_ptr()) + index * x.stride(0) * x.element_size();
}

}  // namespace locus::ops
