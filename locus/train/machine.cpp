#include "locus/train/machine.h"

#include <ATen/ATen.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>

#include "locus/ops/linear.h"

namespace locus::train {

double measure_matmul_rate(at::ScalarType type, at::Device device) {
  constexpr int64_t kSize = 1024;
  constexpr double kSeconds = 0.1;
  using Clock = std::chrono::steady_clock;
  const at::NoGradGuard no_grad;
  const at::Tensor a = at::ones({kSize, kSize}, at::TensorOptions().dtype(type).device(device));
  at::Tensor out = ops::linear(a, a, {});
  double best = 0;
  const auto begin = Clock::now();
  while (std::chrono::duration<double>(Clock::now() - begin).count() < kSeconds) {
    const auto start = Clock::now();
    for (int i = 0; i < 4; ++i) out = ops::linear(a, a, {});
    out[0][0].item();  // waits for an asynchronous device
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    best = std::max(best, 4 * 2.0 * kSize * kSize * kSize / seconds);
  }
  return best;
}

int64_t resident_bytes() {
  int64_t total = 0;
  int64_t resident = 0;
  std::FILE* file = std::fopen("/proc/self/statm", "r");
  if (file == nullptr) return 0;
  const int fields = std::fscanf(file, "%ld %ld", &total, &resident);
  std::fclose(file);
  return fields == 2 ? resident * ::sysconf(_SC_PAGESIZE) : 0;
}

int64_t peak_resident_bytes() {
  // Not getrusage: its peak is also that of the launcher whose place this program took.
  std::FILE* file = std::fopen("/proc/self/status", "r");
  if (file == nullptr) return 0;
  int64_t kib = 0;
  for (char line[256]; std::fgets(line, sizeof line, file) != nullptr;) {
    if (std::sscanf(line, "VmHWM: %ld kB", &kib) == 1) break;
  }
  std::fclose(file);
  return kib * 1024;
}

}  // namespace locus::train
