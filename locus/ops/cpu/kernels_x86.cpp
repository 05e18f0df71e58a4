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

// Intel's cores begin a VDPBF16PS every second cycle but two float32 FMAs in each, so a product in
// float32 is up to twice as fast (88 against 170 GFLOP/s a core, Emerald Rapids). AMD's begin two.
bool bfloat16_products_pay() { return __builtin_cpu_is("amd"); }

std::span<const Kernels* const> compiled_kernels() {
  static constexpr const Kernels* kAll[] = {&kBaseline, &kAvx2, &kAvx512, &kAvx512Bf16};
  return kAll;
}

}  // namespace locus::ops::cpu
