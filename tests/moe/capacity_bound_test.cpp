#include "locus/moe/capacity_bound.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "locus/base/random.h"

namespace locus::moe {
namespace {

// The cosine of a random direction has a density proportional to (1 - t^2)^((D - 3) / 2).
double integrated(double delta, int64_t hidden_size) {
  constexpr int kSteps = 100'000;
  const double power = 0.5 * static_cast<double>(hidden_size - 3);
  const auto integral = [&](double from) {
    const double step = (1 - from) / kSteps;
    double sum = 0;
    for (int i = 0; i < kSteps; ++i) {
      const double t = from + (i + 0.5) * step;
      sum += std::pow(1 - t * t, power) * step;
    }
    return sum;
  };
  return integral(delta) / integral(0);
}

TEST(ChanceOfAngle, IsTheIntegralOverTheSphere) {
  for (const int64_t d : {3, 4, 8, 128, 1024}) {
    for (const double delta : {0.01, 0.1, 0.3, 0.7}) {
      const double expected = integrated(delta, d);
      EXPECT_NEAR(chance_of_angle(delta, d), expected, 1e-6 * expected + 1e-300)
          << d << " " << delta;
      EXPECT_EQ(chance_of_angle(-delta, d), chance_of_angle(delta, d));
    }
  }
  // In a plane it is the angle itself.
  EXPECT_NEAR(chance_of_angle(std::cos(1.0), 2), 1.0 / std::acos(0.0), 1e-12);
  EXPECT_EQ(chance_of_angle(0, 64), 1);
  EXPECT_EQ(chance_of_angle(1, 64), 0);
}

// The specification's worked value: erfc(1 / sqrt(2)).
TEST(ChanceOfAngle, OfOneDeviationIsThatOfANormalNumber) {
  const int64_t d = 100'000;
  EXPECT_NEAR(chance_of_angle(1 / std::sqrt(static_cast<double>(d)), d), std::erfc(std::sqrt(0.5)),
              1e-5);
}

TEST(ChanceOfAngle, IsHowOftenRandomDirectionsComeSoNear) {
  constexpr int kSamples = 200'000;
  constexpr int64_t kSize = 12;
  int near = 0;
  uint64_t draw = 0;
  const auto normal = [&draw] {
    const double u = (static_cast<double>(random_bits(3, draw++) >> 11) + 0.5) * 0x1p-53;
    const double v = (static_cast<double>(random_bits(3, draw++) >> 11) + 0.5) * 0x1p-53;
    return std::sqrt(-2 * std::log(u)) * std::cos(2 * std::acos(-1.0) * v);
  };
  for (int i = 0; i < kSamples; ++i) {
    const double first = normal();
    double square = first * first;
    for (int64_t c = 1; c < kSize; ++c) {
      const double x = normal();
      square += x * x;
    }
    near += std::abs(first) >= 0.4 * std::sqrt(square) ? 1 : 0;
  }
  const double chance = chance_of_angle(0.4, kSize);
  EXPECT_NEAR(near / static_cast<double>(kSamples), chance, 5 * std::sqrt(chance / kSamples));
}

double bound_of_many_channels(double delta, int64_t hidden_size, int64_t num_experts) {
  const double x = delta * delta;
  return std::exp(static_cast<double>(hidden_size) * x / (2 - x)) /
         static_cast<double>(num_experts);
}

TEST(CapacityBound, GrowsWithTheCosineAndLiesAboveTheFormOfManyChannels) {
  for (const int64_t d : {8, 128, 4096}) {
    double before = 0;
    for (double delta = 0.01; delta < 0.2; delta += 0.01) {
      const double bound = capacity_bound(delta, d, 16);
      EXPECT_GT(bound, before);
      EXPECT_GE(bound, bound_of_many_channels(delta, d, 16));
      EXPECT_NEAR(bound * 16, capacity_bound(delta, d, 1), 1e-9 * bound * 16);
      before = bound;
    }
  }
  EXPECT_NEAR(capacity_bound(0, 128, 16), 1.0 / 16, 1e-15);
  EXPECT_EQ(capacity_bound(-0.5, 128, 16), capacity_bound(0, 128, 16));
  // The paper's angles: about one token.
  EXPECT_NEAR(capacity_bound(0.03, 4096, 16), 1.14, 0.01);
  EXPECT_EQ(capacity_bound(0.9, 4096, 16), std::numeric_limits<double>::infinity());
}

}  // namespace
}  // namespace locus::moe
