#include "locus/base/random.h"

#include <gtest/gtest.h>

#include <bit>
#include <set>
#include <vector>

#include "locus/base/error.h"

namespace locus {
namespace {

TEST(Random, MixBitsGivesTheFirstOutputsPublishedForSplitMix64) {
  // The generator's state advances by its increment: output n of a seed is mix(seed + n *
  // increment).
  constexpr uint64_t kSeed = 1234567;
  constexpr uint64_t kIncrement = 0x9e3779b97f4a7c15ull;
  constexpr uint64_t kExpected[] = {6457827717110365317ull, 3203168211198807973ull,
                                    9817491932198370423ull, 4593380528125082431ull,
                                    16408922859458223821ull};
  uint64_t state = kSeed;
  for (const uint64_t expected : kExpected) {
    EXPECT_EQ(mix_bits(state), expected);
    state += kIncrement;
  }
  EXPECT_EQ(mix_bits(0), 0xe220a8397b1dcdafull);
}

TEST(Random, NameKeyIsFnv1a) {
  EXPECT_EQ(name_key(""), 0xcbf29ce484222325ull);
  EXPECT_EQ(name_key("a"), 0xaf63dc4c8601ec8cull);
  EXPECT_EQ(name_key("foobar"), 0x85944171f73967e8ull);
}

TEST(Random, KeysDependOnEveryPartAndOnTheirOrder) {
  std::set<uint64_t> keys;
  for (uint64_t seed = 0; seed < 20; ++seed) {
    for (uint64_t step = 0; step < 20; ++step) keys.insert(random_key({seed, step}));
  }
  EXPECT_EQ(keys.size(), 400U);
  EXPECT_NE(random_key({1, 2}), random_key({1, 2, 0}));
  EXPECT_NE(random_key({}), random_key({0}));
}

TEST(Random, UniformHasTheMeanAndVarianceOfTheUniformDistribution) {
  constexpr int kCount = 200000;
  double sum = 0;
  double sum_of_squares = 0;
  for (int i = 0; i < kCount; ++i) {
    const double draw = random_uniform(random_key({42}), static_cast<uint64_t>(i));
    ASSERT_GE(draw, 0.0);
    ASSERT_LT(draw, 1.0);
    sum += draw;
    sum_of_squares += draw * draw;
  }
  const double mean = sum / kCount;
  EXPECT_NEAR(mean, 0.5, 0.003);  // over four standard errors
  EXPECT_NEAR(sum_of_squares / kCount - mean * mean, 1.0 / 12, 0.001);
}

TEST(Random, NeighbouringKeysAndIndicesShareHalfOfTheirBits) {
  int64_t key_flips = 0;
  int64_t index_flips = 0;
  constexpr int kCount = 10000;
  for (uint64_t i = 0; i < kCount; ++i) {
    key_flips += std::popcount(random_bits(i, 5) ^ random_bits(i + 1, 5));
    index_flips += std::popcount(random_bits(5, i) ^ random_bits(5, i + 1));
  }
  EXPECT_NEAR(static_cast<double>(key_flips) / kCount, 32.0, 0.25);
  EXPECT_NEAR(static_cast<double>(index_flips) / kCount, 32.0, 0.25);
}

TEST(PermuteIndex, IsABijectionForEverySizeUpTo300AndSomeLargeOnes) {
  std::vector<uint64_t> sizes;
  for (uint64_t size = 1; size <= 300; ++size) sizes.push_back(size);
  sizes.insert(sizes.end(), {1023, 1024, 1025, 4097, 65536, 65537, 100003});
  for (const uint64_t size : sizes) {
    std::vector<bool> seen(size, false);
    for (uint64_t i = 0; i < size; ++i) {
      const uint64_t image = permute_index(size + 9, i, size);
      ASSERT_LT(image, size);
      ASSERT_FALSE(seen[image]) << "size " << size << " index " << i;
      seen[image] = true;
    }
  }
}

TEST(PermuteIndex, StaysInRangeNearTheLargestSizes) {
  constexpr uint64_t kHuge = (uint64_t{1} << 62) + 12345;
  std::set<uint64_t> images;
  for (uint64_t i = 0; i < 1000; ++i) {
    const uint64_t image = permute_index(3, i, kHuge);
    EXPECT_LT(image, kHuge);
    images.insert(image);
  }
  EXPECT_EQ(images.size(), 1000U);
  EXPECT_LT(permute_index(3, 17, ~uint64_t{0}), ~uint64_t{0});
}

TEST(PermuteIndex, GivesAnotherOrderForAnotherKeyAndLeavesFewInPlace) {
  constexpr uint64_t kSize = 10000;
  int same = 0;
  int in_place = 0;
  for (uint64_t i = 0; i < kSize; ++i) {
    same += permute_index(1, i, kSize) == permute_index(2, i, kSize) ? 1 : 0;
    in_place += permute_index(1, i, kSize) == i ? 1 : 0;
  }
  EXPECT_LT(same, 12);  // one expected
  EXPECT_LT(in_place, 12);
}

TEST(PermuteIndex, SpreadsTheFirstIndicesOverTheRange) {
  constexpr uint64_t kSize = 1000003;
  double sum = 0;
  for (uint64_t i = 0; i < 10000; ++i) sum += static_cast<double>(permute_index(11, i, kSize));
  EXPECT_NEAR(sum / 10000 / kSize, 0.5, 0.015);
}

TEST(PermuteIndex, RejectsAnIndexBeyondTheSize) {
  EXPECT_THROW(permute_index(1, 5, 5), InternalError);
  EXPECT_THROW(permute_index(1, 0, 0), InternalError);
}

}  // namespace
}  // namespace locus
