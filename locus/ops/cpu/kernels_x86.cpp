// The instruction sets of x86. Twin: kernels_other.cpp.
#include "locus/ops/cpu/kernels.h"

namespace locus::ops::cpu {

extern const Kernels kBaseline, kAvx2, kAvx512, kAvx512Bf16;

std::span<const Kernels* const> compiled_kernels() {
  static constexpr const Kernels* kAll[] = {&kBaseline, &kAvx2, &kAvx512, &kAvx512Bf16};
  return kAll;
}

}  // namespace locus::ops::cpu
