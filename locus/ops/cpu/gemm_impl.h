// Packing and multiplying blocks, for one vector width; included by one source file for each
// instruction set, nowhere else. After Goto and van de Geijn, "Anatomy of High-Performance Matrix
// Multiplication" (2008): the tile of c stays in registers over the whole loop over k.
//
// Nothing here may be shared with other translation units: an inline function compiled for AVX-512
// must not be the one that the linker keeps for all.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#include "locus/ops/cpu/kernels.h"

namespace locus::ops::cpu {
namespace {

// `kFloats` lanes in a vector, kVectors vectors across a tile of kRowTile rows.
template <int kFloats_, int kVectors_, int kRowTile_>
struct Width {
  static constexpr int kFloats = kFloats_;
  static constexpr int kVectors = kVectors_;
  static constexpr int kRowTile = kRowTile_;
  static constexpr int kColumnTile = kFloats * kVectors;
  using Float __attribute__((vector_size(kFloats_ * 4))) = float;
  using Int __attribute__((vector_size(kFloats_ * 4))) = uint32_t;
  using Short __attribute__((vector_size(kFloats_ * 2))) = uint16_t;
};

// Unaligned; each is one instruction.
template <class V>
V load(const void* p) {
  V value;
  std::memcpy(&value, p, sizeof(V));
  return value;
}
template <class V>
void store_vector(void* p, V value) {
  std::memcpy(p, &value, sizeof(V));
}

inline float to_float(uint16_t bfloat16) {
  const uint32_t bits = static_cast<uint32_t>(bfloat16) << 16;
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// Round to nearest even; NaN stays NaN.
inline uint16_t to_bfloat16(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return static_cast<uint16_t>(value != value ? 0x7fc0u : rounded);
}

// --- arithmetic in lanes of 32 bits: a float, or a pair of bfloat16 ---

// How a product computes: kStep values of k in each 32-bit lane, fma(a, b, c) over lanes.
template <class W>
struct FloatMath {
  static constexpr int kStep = 1;
  static typename W::Float fma(typename W::Int a, typename W::Int b, typename W::Float c) {
    return (typename W::Float)a * (typename W::Float)b + c;
  }
  // kFloats lanes from elements that follow each other in k.
  static typename W::Int along_k(const float* p) { return load<typename W::Int>(p); }
  static typename W::Int along_k(const uint16_t* p) {
    return __builtin_convertvector(load<typename W::Short>(p), typename W::Int) << 16;
  }
  // The same of `count` elements, zeros after them.
  template <class T>
  static typename W::Int along_k(const T* p, int64_t count) {
    T buffer[W::kFloats] = {};
    std::memcpy(buffer, p, static_cast<size_t>(count) * sizeof(T));
    return along_k(buffer);
  }
  // kFloats lanes from neighbouring columns of one row (k); `second` would be row k + 1.
  template <class T>
  static typename W::Int across_k(const T* p, const T* /*second*/) {
    return along_k(p);
  }
};

// --- transposition of kFloats x kFloats lanes ---

template <class W, int... kLane>
typename W::Int interleave_low(typename W::Int a, typename W::Int b,
                               std::integer_sequence<int, kLane...>) {
  return __builtin_shufflevector(a, b, (kLane / 2 + (kLane % 2) * W::kFloats)...);
}
template <class W, int... kLane>
typename W::Int interleave_high(typename W::Int a, typename W::Int b,
                                std::integer_sequence<int, kLane...>) {
  return __builtin_shufflevector(a, b, (W::kFloats / 2 + kLane / 2 + (kLane % 2) * W::kFloats)...);
}

// Perfect shuffles, log2(kFloats) of them: row i and row i + half become rows 2i and 2i + 1.
template <class W>
void transpose(typename W::Int (&rows)[W::kFloats]) {
  constexpr int kHalf = W::kFloats / 2;
  const std::make_integer_sequence<int, W::kFloats> lanes;
#pragma GCC unroll 8
  for (int size = 1; size < W::kFloats; size *= 2) {
    typename W::Int next[W::kFloats];
#pragma GCC unroll 16
    for (int i = 0; i < kHalf; ++i) {
      next[2 * i] = interleave_low<W>(rows[i], rows[i + kHalf], lanes);
      next[2 * i + 1] = interleave_high<W>(rows[i], rows[i + kHalf], lanes);
    }
#pragma GCC unroll 16
    for (int i = 0; i < W::kFloats; ++i) rows[i] = next[i];
  }
}

// --- packing ---

// One panel of `columns` <= kColumnTile columns where the elements of a column lie side by side (a
// weight [out, in] as its transpose): transposed on the way.
template <class W, class Math, class T>
void pack_panel_along_k(const T* b, int64_t column_stride, int64_t k, int64_t columns,
                        uint32_t* out) {
  constexpr int kStep = Math::kStep;
  constexpr int64_t kBlock = int64_t{W::kFloats} * kStep;
  for (int64_t k0 = 0; k0 < k; k0 += kBlock) {
    const int64_t rest = k - k0 < kBlock ? k - k0 : kBlock;
    const int64_t lanes = (rest + kStep - 1) / kStep;
    for (int vector = 0; vector < W::kVectors; ++vector) {
      typename W::Int rows[W::kFloats];
#pragma GCC unroll 16
      for (int i = 0; i < W::kFloats; ++i) {
        const int64_t column = vector * W::kFloats + i;
        const T* from = b + column * column_stride + k0;
        rows[i] = column >= columns ? typename W::Int{}
                  : rest == kBlock  ? Math::along_k(from)
                                    : Math::along_k(from, rest);
      }
      transpose<W>(rows);
      uint32_t* to = out + (k0 / kStep) * W::kColumnTile + vector * W::kFloats;
      if (lanes == W::kFloats) {
#pragma GCC unroll 16
        for (int i = 0; i < W::kFloats; ++i) store_vector(to + i * W::kColumnTile, rows[i]);
      } else {
        for (int i = 0; i < lanes; ++i) store_vector(to + i * W::kColumnTile, rows[i]);
      }
    }
  }
}

// One panel where the elements of a row lie side by side: copied.
template <class W, class Math, class T>
void pack_panel_across_k(const T* b, int64_t row_stride, int64_t k, int64_t columns,
                         uint32_t* out) {
  constexpr int kStep = Math::kStep;
  const T zeros[W::kColumnTile] = {};
  T first[W::kColumnTile] = {};
  T second[W::kColumnTile] = {};
  for (int64_t k0 = 0; k0 < k; k0 += kStep, out += W::kColumnTile) {
    const T* row = b + k0 * row_stride;
    const T* next = k0 + 1 < k ? row + row_stride : zeros;
    if (columns < W::kColumnTile) {
      std::memcpy(first, row, static_cast<size_t>(columns) * sizeof(T));
      std::memcpy(second, next, static_cast<size_t>(columns) * sizeof(T));
      row = first;
      next = second;
    }
#pragma GCC unroll 4
    for (int vector = 0; vector < W::kVectors; ++vector) {
      const int offset = vector * W::kFloats;
      store_vector(out + offset, Math::across_k(row + offset, next + offset));
    }
  }
}

template <class W, class Math, class T>
void pack_matrix(const Matrix& b, int64_t k, int64_t n, uint32_t* out) {
  const auto* data = static_cast<const T*>(b.data);
  const int64_t panel = (k + Math::kStep - 1) / Math::kStep * W::kColumnTile;
  for (int64_t column = 0; column < n; column += W::kColumnTile, out += panel) {
    const int64_t columns = n - column < W::kColumnTile ? n - column : W::kColumnTile;
    if (b.column_stride == 1) {
      pack_panel_across_k<W, Math>(data + column, b.row_stride, k, columns, out);
    } else {
      pack_panel_along_k<W, Math>(data + column * b.column_stride, b.column_stride, k, columns,
                                  out);
    }
  }
}

// --- the tile ---

// Rows of a as 32-bit lanes: lane (i, l) at data + i * row_stride + l * lane_stride.
using Lane __attribute__((may_alias)) = uint32_t;
struct Lanes {
  const Lane* data;
  int64_t row_stride, lane_stride;
};

// c [kRows, columns] (+)= a [kRows, lanes] * panel. The addresses of rows are taken three from one
// pointer (p, p + s, p + 2 s), which the processor computes for free.
template <class W, class Math, int kRows>
void multiply_tile(Lanes a, int64_t lanes, const uint32_t* panel, int64_t columns, float* c,
                   int64_t c_stride, bool accumulate) {
  using Float = typename W::Float;
  using Int = typename W::Int;
  constexpr int kBases = (kRows + 2) / 3;
  Float sum[kRows][W::kVectors];
#pragma GCC unroll 16
  for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
    for (int v = 0; v < W::kVectors; ++v) sum[i][v] = Float{};
  }
  const Lane* base[kBases];
#pragma GCC unroll 8
  for (int i = 0; i < kBases; ++i) base[i] = a.data + 3 * i * a.row_stride;
  for (int64_t l = 0; l < lanes; ++l) {
    Int b[W::kVectors];
#pragma GCC unroll 4
    for (int v = 0; v < W::kVectors; ++v) b[v] = load<Int>(panel + v * W::kFloats);
    panel += W::kColumnTile;
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
      const Int ai = Int{} + base[i / 3][(i % 3) * a.row_stride];
#pragma GCC unroll 4
      for (int v = 0; v < W::kVectors; ++v) sum[i][v] = Math::fma(ai, b[v], sum[i][v]);
    }
#pragma GCC unroll 8
    for (int i = 0; i < kBases; ++i) base[i] += a.lane_stride;
  }
  if (columns == W::kColumnTile) {
#pragma GCC unroll 16
    for (int i = 0; i < kRows; ++i) {
#pragma GCC unroll 4
      for (int v = 0; v < W::kVectors; ++v) {
        float* to = c + i * c_stride + v * W::kFloats;
        store_vector(to, accumulate ? load<Float>(to) + sum[i][v] : sum[i][v]);
      }
    }
    return;
  }
  for (int i = 0; i < kRows; ++i) {
    float row[W::kColumnTile];
    std::memcpy(row, sum[i], sizeof(row));
    float* to = c + i * c_stride;
    for (int64_t j = 0; j < columns; ++j) to[j] = accumulate ? to[j] + row[j] : row[j];
  }
}

template <class W, class Math>
using Tile = void(Lanes, int64_t, const uint32_t*, int64_t, float*, int64_t, bool);

template <class W, class Math, int... kRow>
constexpr auto tile_table(std::integer_sequence<int, kRow...>) {
  struct Table {
    Tile<W, Math>* of_rows[sizeof...(kRow)];
  };
  return Table{{multiply_tile<W, Math, kRow + 1>...}};
}

// Whether rows of a are lanes already where they lie. Not where rows are a multiple of 4 KiB apart:
// all would fall on the same set of the first-level cache and push each other out.
template <class Math, class T>
bool can_stay(const Matrix& a, int64_t k) {
  constexpr int64_t kPage = 4096;
  return sizeof(T) * Math::kStep == sizeof(uint32_t) && a.column_stride == 1 &&
         k % Math::kStep == 0 && a.row_stride % Math::kStep == 0 &&
         reinterpret_cast<uintptr_t>(a.data) % sizeof(uint32_t) == 0 &&
         a.row_stride * static_cast<int64_t>(sizeof(T)) % kPage != 0;
}

// Rows a [rows, k] as lanes: in place, or in `scratch`: side by side where they lie so (padded, so
// that rows do not fall on the same sets of the cache), lane by lane otherwise.
template <class W, class Math, class T>
Lanes pack_rows(const Matrix& a, int64_t rows, int64_t k, uint32_t* scratch) {
  constexpr int kStep = Math::kStep;
  const auto* data = static_cast<const T*>(a.data);
  const int64_t lanes = (k + kStep - 1) / kStep;
  if (can_stay<Math, T>(a, k)) {
    return {static_cast<const Lane*>(a.data), a.row_stride / kStep, 1};
  }
  if (a.column_stride == 1) {
    const int64_t stride = (lanes + W::kFloats - 1) / W::kFloats * W::kFloats + 16;
    constexpr int64_t kBlock = int64_t{W::kFloats} * kStep;
    for (int64_t i = 0; i < rows; ++i) {
      const T* from = data + i * a.row_stride;
      uint32_t* to = scratch + i * stride;
      int64_t k0 = 0;
      for (; k0 + kBlock <= k; k0 += kBlock)
        store_vector(to + k0 / kStep, Math::along_k(from + k0));
      if (k0 < k) store_vector(to + k0 / kStep, Math::along_k(from + k0, k - k0));
    }
    return {scratch, stride, 1};
  }
  static_assert(W::kRowTile <= W::kFloats);
  // A whole vector is read, also beyond `rows`, where the matrix goes on behind it.
  const auto whole = [&](int64_t at) { return (k - at - 1) * a.column_stride >= W::kFloats; };
  const T zeros[W::kFloats] = {};
  T first[W::kFloats] = {};
  T second[W::kFloats] = {};
  for (int64_t k0 = 0; k0 < k; k0 += kStep) {
    const T* row = data + k0 * a.column_stride;
    const T* next = k0 + 1 < k ? row + a.column_stride : zeros;
    if (!whole(k0 + kStep - 1)) {
      std::memcpy(first, row, static_cast<size_t>(rows) * sizeof(T));
      std::memcpy(second, next, static_cast<size_t>(rows) * sizeof(T));
      row = first;
      next = second;
    }
    store_vector(scratch + k0 / kStep * W::kFloats, Math::across_k(row, next));
  }
  return {scratch, 1, W::kFloats};
}

// Lanes of k at a time: so many of a tile's rows stay in the first-level cache, and so many of the
// packed columns in the second.
constexpr int64_t kLanesPerPass = 512;

template <class W, class Math, class T>
void multiply_matrix(const Matrix& a, int64_t m, int64_t k, const uint32_t* packed, int64_t n,
                     float* c, int64_t c_stride, bool accumulate) {
  alignas(64) uint32_t scratch[W::kFloats * (kLanesPerPass + 32)];
  static constexpr auto kTiles =
      tile_table<W, Math>(std::make_integer_sequence<int, W::kRowTile>());
  const int64_t all_lanes = (k + Math::kStep - 1) / Math::kStep;
  for (int64_t lane = 0; lane < all_lanes; lane += kLanesPerPass) {
    const int64_t lanes = all_lanes - lane < kLanesPerPass ? all_lanes - lane : kLanesPerPass;
    const int64_t k0 = lane * Math::kStep;
    const int64_t depth = k - k0 < lanes * Math::kStep ? k - k0 : lanes * Math::kStep;
    for (int64_t row = 0; row < m; row += W::kRowTile) {
      const int64_t rows = m - row < W::kRowTile ? m - row : W::kRowTile;
      const Lanes left = pack_rows<W, Math, T>(a.block(row, k0), rows, depth, scratch);
      for (int64_t column = 0; column < n; column += W::kColumnTile) {
        const int64_t columns = n - column < W::kColumnTile ? n - column : W::kColumnTile;
        kTiles.of_rows[rows - 1](left, lanes, packed + column * all_lanes + lane * W::kColumnTile,
                                 columns, c + row * c_stride + column, c_stride,
                                 accumulate || lane > 0);
      }
    }
  }
}

// --- by type ---

template <class W, class FloatM, class Bfloat16M>
void pack(const Matrix& b, int64_t k, int64_t n, Type compute, void* out) {
  auto* lanes = static_cast<uint32_t*>(out);
  if (compute == Type::kFloat) {
    b.type == Type::kFloat ? pack_matrix<W, FloatM, float>(b, k, n, lanes)
                           : pack_matrix<W, FloatM, uint16_t>(b, k, n, lanes);
  } else {
    b.type == Type::kFloat ? pack_matrix<W, Bfloat16M, float>(b, k, n, lanes)
                           : pack_matrix<W, Bfloat16M, uint16_t>(b, k, n, lanes);
  }
}

template <class W, class FloatM, class Bfloat16M>
void multiply(const Matrix& a, int64_t m, int64_t k, const void* packed, int64_t n, Type compute,
              float* c, int64_t c_stride, bool accumulate) {
  const auto* lanes = static_cast<const uint32_t*>(packed);
  const auto run = [&]<class Math>(Math) {
    a.type == Type::kFloat
        ? multiply_matrix<W, Math, float>(a, m, k, lanes, n, c, c_stride, accumulate)
        : multiply_matrix<W, Math, uint16_t>(a, m, k, lanes, n, c, c_stride, accumulate);
  };
  compute == Type::kFloat ? run(FloatM{}) : run(Bfloat16M{});
}

}  // namespace
}  // namespace locus::ops::cpu
