// What this machine can do and what we take of it.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>

namespace locus::train {

// Best rate of a few large matrix products in this type with the current threads, FLOP/s. About 0.1
// s.
double measure_matmul_rate(at::ScalarType type, at::Device device);

// The processor's name and number of cores: where a time was measured.
std::string machine_name();

// Resident memory of this process, bytes.
int64_t resident_bytes();
// The most that it has ever been.
int64_t peak_resident_bytes();

}  // namespace locus::train
