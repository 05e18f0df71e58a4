#include "locus/data/mixture.h"

#include <gtest/gtest.h>

#include <algorithm>

namespace locus::data {
namespace {

using Slots = std::vector<int64_t>;

TEST(LargestRemainder, GivesWholeSlotsThatSumUp) {
  EXPECT_EQ(largest_remainder({1}, 1024), Slots{1024});
  EXPECT_EQ(largest_remainder({0.5, 0.25, 0.25}, 1024), (Slots{512, 256, 256}));
  EXPECT_EQ(largest_remainder({1, 1, 1}, 1024), (Slots{342, 341, 341}));
  EXPECT_EQ(largest_remainder({0, 3}, 10), (Slots{0, 10}));
  EXPECT_EQ(largest_remainder({16, 51, 33}, 10), (Slots{2, 5, 3}));
}

TEST(Mixture, GivesEachDatasetItsExactShareOfEachBlock) {
  const Mixture mixture({0.7, 0.2, 0.1}, 5);
  EXPECT_EQ(mixture.slots(), (Slots{717, 205, 102}));
  for (const int64_t number : {0, 1, 77, 1000000000}) {
    Slots counts(3);
    for (const auto& sample : mixture.block(number)) ++counts[static_cast<size_t>(sample.dataset)];
    EXPECT_EQ(counts, mixture.slots()) << number;
  }
}

TEST(Mixture, CountsTheSamplesOfEachDatasetWithoutGaps) {
  const Mixture mixture({3, 1}, 5);
  Slots next(2);
  for (int64_t number = 0; number < 4; ++number) {
    for (const auto& sample : mixture.block(number)) {
      EXPECT_EQ(sample.index, next[static_cast<size_t>(sample.dataset)]++);
    }
  }
}

TEST(Mixture, ShufflesEachBlockInItsOwnWay) {
  const auto owners = [](const Mixture& mixture, int64_t number) {
    std::vector<int32_t> result;
    for (const auto& sample : mixture.block(number)) result.push_back(sample.dataset);
    return result;
  };
  const Mixture mixture({1, 1}, 5);
  EXPECT_EQ(owners(mixture, 3), owners(Mixture({1, 1}, 5), 3));
  EXPECT_NE(owners(mixture, 3), owners(mixture, 4));
  EXPECT_NE(owners(mixture, 3), owners(Mixture({1, 1}, 6), 3));
  // Far from sorted: about half of the neighbours differ.
  const auto order = owners(mixture, 0);
  int changes = 0;
  for (size_t i = 1; i < order.size(); ++i) changes += order[i] != order[i - 1];
  EXPECT_NEAR(changes, 512, 100);
}

}  // namespace
}  // namespace locus::data
