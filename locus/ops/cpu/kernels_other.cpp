// Processors for which the compiler's vectors are all there is. Twin: kernels_x86.cpp.
#include "locus/ops/cpu/kernels.h"

namespace locus::ops::cpu {

extern const Kernels kBaseline;

bool bfloat16_products_pay() { return true; }

std::span<const Kernels* const> compiled_kernels() {
  static constexpr const Kernels* kAll[] = {&kBaseline};
  return kAll;
}

}  // namespace locus::ops::cpu
