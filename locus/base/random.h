// Random draws without state: a draw is a function of a key and an index, so that it is the same on
// any number of ranks or threads, after a resume, and when a layer is computed a second time.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string_view>

namespace locus {

// The finaliser of SplitMix64 (Steele, Lea, Flood, 2014): a bijection of 64 bits with full
// avalanche.
constexpr uint64_t mix_bits(uint64_t z) {
  z += 0x9e3779b97f4a7c15ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

// One key out of several: random_key({seed, step, layer}). Order matters.
constexpr uint64_t random_key(std::initializer_list<uint64_t> parts) {
  uint64_t key = 0x6c6f637573ull;
  for (const uint64_t part : parts) key = mix_bits(key ^ mix_bits(part));
  return key;
}

// A key out of a name (FNV-1a), for streams: random_key({seed, name_key("dropout")}).
constexpr uint64_t name_key(std::string_view name) {
  uint64_t hash = 0xcbf29ce484222325ull;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ull;
  return hash;
}

// 64 random bits at `index` of the stream `key`.
constexpr uint64_t random_bits(uint64_t key, uint64_t index) {
  return mix_bits(key + mix_bits(index));
}

// Uniform in [0, 1), 53 bits.
constexpr double random_uniform(uint64_t key, uint64_t index) {
  return static_cast<double>(random_bits(key, index) >> 11) * 0x1.0p-53;
}

// A keyed bijection of [0, size): shuffling without a table (four Feistel rounds, cycle walking).
uint64_t permute_index(uint64_t key, uint64_t index, uint64_t size);

}  // namespace locus
