#include "locus/placement/balanced_assignment.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "locus/base/random.h"

namespace locus::placement {
namespace {

double uniform(uint64_t seed, uint64_t index) {
  return static_cast<double>(random_bits(seed, index) >> 11) * 0x1p-53;
}

double total(const std::vector<double>& cost, const std::vector<int64_t>& place, size_t k) {
  double sum = 0;
  for (size_t i = 0; i < place.size(); ++i) sum += cost[i * k + static_cast<size_t>(place[i])];
  return sum;
}

// All assignments of few items, one by one.
double least_total(const std::vector<double>& cost, std::vector<int64_t> room, size_t item = 0) {
  const size_t k = room.size();
  if (item * k == cost.size()) return 0;
  double least = std::numeric_limits<double>::infinity();
  for (size_t p = 0; p < k; ++p) {
    if (room[p] == 0) continue;
    --room[p];
    least = std::min(least, cost[item * k + p] + least_total(cost, room, item + 1));
    ++room[p];
  }
  return least;
}

TEST(BalancedAssignment, CostsTheLeastOfAllThatThereAre) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const size_t k = 1 + seed % 4;
    const size_t n = 1 + seed % 7;
    std::vector<int64_t> room(k);
    for (uint64_t i = 0;
         std::accumulate(room.begin(), room.end(), int64_t{0}) < static_cast<int64_t>(n + seed % 2);
         ++i) {
      ++room[random_bits(seed, i) % k];
    }
    std::vector<double> cost(n * k);
    for (size_t i = 0; i < cost.size(); ++i) {
      // Many ties, too.
      cost[i] = seed % 3 == 0 ? static_cast<double>(random_bits(seed, 100 + i) % 3)
                              : uniform(seed, 100 + i) - 0.5;
    }
    const std::vector<int64_t> place = balanced_assignment(cost, room);
    std::vector<int64_t> used(k);
    for (const int64_t p : place) ++used[static_cast<size_t>(p)];
    for (size_t p = 0; p < k; ++p) EXPECT_LE(used[p], room[p]);
    EXPECT_NEAR(total(cost, place, k), least_total(cost, room), 1e-12) << "seed " << seed;
  }
}

TEST(BalancedAssignment, OfManyItemsNoSwapAndNoChainOfThreeGains) {
  constexpr size_t kItems = 600, kPlaces = 8;
  std::vector<double> cost(kItems * kPlaces);
  for (size_t i = 0; i < cost.size(); ++i) cost[i] = uniform(5, i);
  const std::vector<int64_t> room(kPlaces, kItems / kPlaces);
  const std::vector<int64_t> place = balanced_assignment(cost, room);
  // What an item of `from` costs more at `to`, at least.
  std::vector<double> least(kPlaces * kPlaces, std::numeric_limits<double>::infinity());
  for (size_t i = 0; i < kItems; ++i) {
    const auto from = static_cast<size_t>(place[i]);
    for (size_t to = 0; to < kPlaces; ++to) {
      const double change = cost[i * kPlaces + to] - cost[i * kPlaces + from];
      least[from * kPlaces + to] = std::min(least[from * kPlaces + to], change);
    }
  }
  for (size_t a = 0; a < kPlaces; ++a) {
    for (size_t b = 0; b < kPlaces; ++b) {
      EXPECT_GE(least[a * kPlaces + b] + least[b * kPlaces + a], -1e-12);
      for (size_t c = 0; c < kPlaces; ++c) {
        EXPECT_GE(least[a * kPlaces + b] + least[b * kPlaces + c] + least[c * kPlaces + a], -1e-12);
      }
    }
  }
}

TEST(BalancedAssignment, TakesNoItemsAndOnePlace) {
  EXPECT_TRUE(balanced_assignment({}, std::vector<int64_t>{0, 0}).empty());
  const std::vector<double> cost{3, 1, 2};
  EXPECT_EQ(balanced_assignment(cost, std::vector<int64_t>{3}), (std::vector<int64_t>{0, 0, 0}));
}

}  // namespace
}  // namespace locus::placement
