#include "locus/train/machine.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <string>
#include <string_view>

#include "locus/base/format.h"
#include "locus/base/thread_pool.h"
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

namespace {

// A line of /proc/self/status, bytes; 0 where there is none.
int64_t status_bytes(const std::string& key) {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    int64_t kib = 0;
    if (word == key && status >> kib) return kib * 1024;
  }
  return 0;
}

}  // namespace

std::string machine_name() {
  std::ifstream info("/proc/cpuinfo");
  constexpr std::string_view kKey = "model name";
  std::string name = "unknown processor";
  for (std::string line; std::getline(info, line);) {
    if (!line.starts_with(kKey)) continue;
    const size_t begin = line.find_first_not_of(" \t:", kKey.size());
    if (begin != std::string::npos) name = line.substr(begin);
    break;
  }
  return format("{}, {} cores", name, ThreadPool::num_cores());
}

int64_t resident_bytes() { return status_bytes("VmRSS:"); }

// Not getrusage's: that is also the peak of the launcher whose place this program took.
int64_t peak_resident_bytes() { return status_bytes("VmHWM:"); }

}  // namespace locus::train
