// The instruction sets of x86. Twin: kernels_other.cpp.
#include "locus/ops/cpu/kernels.h"

namespace locus::ops::cpu {

extern const Kernels kBaseline, kAvx2, kAvx512, kAvx512Bf16;

// Compiled for every processor of the architecture: these run everywhere.
bool supports_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

bool supports_avx512() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

bool supports_avx512_bf16() {
  return __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
}

std::span<const Kernels* const> compiled_kernels() {
  static constexpr const Kernels* kAll[] = {&kBaseline, &kAvx2, &kAvx512, &kAvx512Bf16};
  return kAll;
}

}  // namespace locus::ops::cpu
