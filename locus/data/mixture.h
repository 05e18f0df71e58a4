// How the samples of the training stream are dealt out to datasets.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

namespace locus::data {

inline constexpr int64_t kMixtureBlock = 1024;

// Whole slots by weight, largest remainder first, the earlier dataset at a tie. They sum to
// `slots`. Weights are finite, not negative, and not all zero.
std::vector<int64_t> largest_remainder(const std::vector<double>& weights, int64_t slots);

class Mixture {
 public:
  struct Sample {
    int32_t dataset = 0;
    int64_t index = 0;  // counts the samples of this dataset: 0, 1, 2, ... over the whole stream
  };
  using Block = std::array<Sample, kMixtureBlock>;

  Mixture(const std::vector<double>& weights, uint64_t seed);

  // Samples of each block that go to each dataset.
  const std::vector<int64_t>& slots() const { return slots_; }

  // The samples 1,024 * number ... of the stream.
  Block block(int64_t number) const;

 private:
  std::vector<int64_t> slots_;
  uint64_t seed_;
};

}  // namespace locus::data
