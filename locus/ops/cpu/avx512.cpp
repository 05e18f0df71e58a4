// AVX-512 without bfloat16 products: Intel Skylake and its successors.
#include "locus/ops/cpu/rows_impl.h"

namespace locus::ops::cpu {
namespace {

using Wide = Width<16, 2, 14>;

bool supported() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

}  // namespace

extern const Kernels kAvx512;
constexpr Kernels kAvx512 =
    make_kernels<Wide, FloatMath<Wide>, FloatMath<Wide>>("avx512", supported, false);

}  // namespace locus::ops::cpu
