// AVX2 with fused multiply-add: x86 processors since about 2013.
#include "locus/ops/cpu/rows_impl.h"

namespace locus::ops::cpu {
namespace {

using Wide = Width<8, 2, 6>;

bool supported() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

}  // namespace

extern const Kernels kAvx2;
constexpr Kernels kAvx2 =
    make_kernels<Wide, FloatMath<Wide>, FloatMath<Wide>>("avx2", supported, false);

}  // namespace locus::ops::cpu
