#include "locus/base/random.h"

#include <bit>

#include "locus/base/error.h"

namespace locus {

uint64_t permute_index(uint64_t key, uint64_t index, uint64_t size) {
  LOCUS_CHECK(index < size, "index {} of {}", index, size);
  if (size == 1) return 0;
  const auto half_bits = static_cast<unsigned>((std::bit_width(size - 1) + 1) / 2);
  const uint64_t mask = (uint64_t{1} << half_bits) - 1;
  uint64_t value = index;
  do {  // the domain is at most 4 x size: few walks
    uint64_t left = value >> half_bits;
    uint64_t right = value & mask;
    for (uint64_t round = 0; round < 4; ++round) {
      const uint64_t next = left ^ (random_bits(key + round, right) & mask);
      left = right;
      right = next;
    }
    value = (left << half_bits) | right;
  } while (value >= size);
  return value;
}

}  // namespace locus
