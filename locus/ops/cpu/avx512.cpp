// AVX-512 without bfloat16 products: Intel Skylake and its successors.
#include "locus/ops/cpu/rows_impl.h"

namespace locus::ops::cpu {
namespace {

using Wide = Width<16, 2, 14>;

}  // namespace

bool supports_avx512();  // kernels_x86.cpp: asked on processors that cannot run this file

extern const Kernels kAvx512;
constexpr Kernels kAvx512 =
    make_kernels<Wide, FloatMath<Wide>, FloatMath<Wide>>("avx512", supports_avx512, false);

}  // namespace locus::ops::cpu
