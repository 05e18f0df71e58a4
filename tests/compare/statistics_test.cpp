#include "locus/compare/statistics.h"

#include <gtest/gtest.h>

#include <cmath>

namespace locus::compare {
namespace {

TEST(Statistics, AreThoseOfASample) {
  EXPECT_DOUBLE_EQ(mean_of({1, 2, 6}), 3);
  EXPECT_NEAR(deviation_of({1, 2, 6}), std::sqrt(7.0), 1e-12);
  EXPECT_TRUE(std::isnan(deviation_of({1})));
  EXPECT_TRUE(std::isnan(mean_of({})));
}

TEST(Statistics, KnowStudentsDistribution) {
  EXPECT_NEAR(student_t(1), 12.7062, 1e-4);
  EXPECT_NEAR(student_t(2), 4.3027, 1e-4);
  EXPECT_NEAR(student_t(20), 2.0860, 1e-4);
  EXPECT_NEAR(student_t(21), 2.0796, 2e-4);  // from here on by an expansion
  EXPECT_NEAR(student_t(30), 2.0423, 2e-4);
  EXPECT_NEAR(student_t(1000), 1.9623, 1e-4);
}

TEST(PairedDifference, IsThatOfEqualSeeds) {
  // Seeds differ by more than variants do: 0.1 lower at each of them.
  const PairedDifference difference = paired_difference({3.9, 4.41, 3.49}, {4.0, 4.5, 3.6});
  EXPECT_NEAR(difference.mean, -0.1, 1e-12);
  EXPECT_NEAR(difference.high - difference.mean, 4.3027 * 0.01 / std::sqrt(3.0), 1e-4);
  EXPECT_TRUE(difference.is_sure());
  EXPECT_FALSE(paired_difference({3.9, 4.6, 3.5}, {4.0, 4.5, 3.6}).is_sure());
}

TEST(PairedDifference, HasNoIntervalForOneSeed) {
  const PairedDifference difference = paired_difference({3.9}, {4.0});
  EXPECT_NEAR(difference.mean, -0.1, 1e-12);
  EXPECT_TRUE(std::isnan(difference.low));
  EXPECT_FALSE(difference.is_sure());
}

}  // namespace
}  // namespace locus::compare
