// AVX-512 with dot products of bfloat16 pairs: AMD Zen 4 and 5, Intel Cooper Lake, Sapphire Rapids.
#include <immintrin.h>

#include "locus/ops/cpu/rows_impl.h"

namespace locus::ops::cpu {
namespace {

using Wide = Width<16, 2, 14>;

// Lanes are pairs (k, k + 1) of bfloat16, the first in the low half.
struct PairMath {
  static constexpr int kStep = 2;
  static Wide::Float fma(Wide::Int a, Wide::Int b, Wide::Float c) {
    return (Wide::Float)_mm512_dpbf16_ps((__m512)c, (__m512bh)a, (__m512bh)b);
  }
  static Wide::Int along_k(const uint16_t* p) { return load<Wide::Int>(p); }
  static Wide::Int along_k(const float* p) {
    return (Wide::Int)_mm512_cvtne2ps_pbh(_mm512_loadu_ps(p + 16), _mm512_loadu_ps(p));
  }
  template <class T>
  static Wide::Int along_k(const T* p, int64_t count) {
    T buffer[2 * Wide::kFloats] = {};
    std::memcpy(buffer, p, static_cast<size_t>(count) * sizeof(T));
    return along_k(buffer);
  }
  static Wide::Int across_k(const uint16_t* first, const uint16_t* second) {
    const auto low = __builtin_convertvector(load<Wide::Short>(first), Wide::Int);
    const auto high = __builtin_convertvector(load<Wide::Short>(second), Wide::Int);
    return low | high << 16;
  }
  static Wide::Int across_k(const float* first, const float* second) {
    const auto low = (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(first));
    const auto high = (__m256i)_mm512_cvtneps_pbh(_mm512_loadu_ps(second));
    return (Wide::Int)_mm512_or_si512(_mm512_cvtepu16_epi32(low),
                                      _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
  }
};

}  // namespace

bool supports_avx512_bf16();  // kernels_x86.cpp: asked on processors that cannot run this file

extern const Kernels kAvx512Bf16;
constexpr Kernels kAvx512Bf16 =
    make_kernels<Wide, FloatMath<Wide>, PairMath>("avx512_bf16", supports_avx512_bf16, true);

}  // namespace locus::ops::cpu
