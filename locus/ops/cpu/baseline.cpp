// What every processor of the architecture has: SSE2 on x86, NEON on 64-bit ARM.
#include "locus/ops/cpu/rows_impl.h"

namespace locus::ops::cpu {
namespace {

using Wide = Width<4, 2, 4>;

bool supported() { return true; }

}  // namespace

extern const Kernels kBaseline;
constexpr Kernels kBaseline =
    make_kernels<Wide, FloatMath<Wide>, FloatMath<Wide>>("baseline", supported, false);

}  // namespace locus::ops::cpu
