// Little-endian numbers at any address of a byte string: the arrays of .idx files are not aligned.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace locus::data {

static_assert(std::endian::native == std::endian::little, "the formats are little-endian");

template <class T>
T load_unaligned(const std::byte* address) {
  T value;
  std::memcpy(&value, address, sizeof(T));
  return value;
}

// Entry `index` of an array of T that begins at `array`.
template <class T>
T load_entry(const std::byte* array, int64_t index) {
  return load_unaligned<T>(array + static_cast<size_t>(index) * sizeof(T));
}

}  // namespace locus::data
