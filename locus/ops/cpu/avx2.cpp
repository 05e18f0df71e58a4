// AVX2 with fused multiply-add: x86 processors since about 2013.
#include "locus/ops/cpu/rows_impl.h"

namespace locus::ops::cpu {
namespace {

using Wide = Width<8, 2, 6>;

}  // namespace

bool supports_avx2();  // kernels_x86.cpp: asked on processors that cannot run this file

extern const Kernels kAvx2;
constexpr Kernels kAvx2 =
    make_kernels<Wide, FloatMath<Wide>, FloatMath<Wide>>("avx2", supports_avx2, false);

}  // namespace locus::ops::cpu
