#include "locus/train/lr_schedule.h"

#include <gtest/gtest.h>

#include <cmath>

#include "locus/base/error.h"

namespace locus::train {
namespace {

LrScheduleConfig schedule(const std::string& type) {
  LrScheduleConfig config;
  config.type = type;
  config.lr = 1.0;
  config.min_lr = 0.1;
  config.warmup_steps = 10;
  return config;
}

TEST(LrSchedule, WarmsUpLinearlyToThePeakWithEveryType) {
  for (const LrScheduleEntry& entry : lr_schedule_entries()) {
    const auto config = schedule(std::string(entry.name));
    EXPECT_DOUBLE_EQ(learning_rate(config, 0, 110), 0.1) << entry.name;
    EXPECT_DOUBLE_EQ(learning_rate(config, 4, 110), 0.5) << entry.name;
    EXPECT_DOUBLE_EQ(learning_rate(config, 9, 110), 1.0) << entry.name;
    EXPECT_DOUBLE_EQ(learning_rate(config, 10, 110),
                     entry.name == "inverse_sqrt" ? std::sqrt(10.0 / 11.0) : 1.0)
        << entry.name;
  }
}

TEST(LrSchedule, DecaysAsEachFormulaSays) {
  EXPECT_DOUBLE_EQ(learning_rate(schedule("constant"), 109, 110), 1.0);
  EXPECT_DOUBLE_EQ(learning_rate(schedule("linear"), 60, 110), 0.55);
  EXPECT_DOUBLE_EQ(learning_rate(schedule("linear"), 110, 110), 0.1);
  EXPECT_DOUBLE_EQ(learning_rate(schedule("cosine"), 60, 110), 0.55);
  EXPECT_NEAR(learning_rate(schedule("cosine"), 35, 110), 0.1 + 0.9 * (1 + std::sqrt(0.5)) / 2,
              1e-15);
  EXPECT_DOUBLE_EQ(learning_rate(schedule("inverse_sqrt"), 39, 110), 0.5);
  EXPECT_DOUBLE_EQ(learning_rate(schedule("inverse_sqrt"), 99999, 110), 0.1);
  EXPECT_DOUBLE_EQ(learning_rate(schedule("wsd"), 98, 110), 1.0);
  EXPECT_NEAR(learning_rate(schedule("wsd"), 99 + 5, 110), 1.0 - 0.9 * 5 / 11, 1e-15);
}

TEST(LrSchedule, TheLengthOfTheDecayCanBeStated) {
  auto config = schedule("linear");
  config.decay_steps = 20;
  EXPECT_DOUBLE_EQ(learning_rate(config, 20, 110), 0.55);
  EXPECT_DOUBLE_EQ(learning_rate(config, 90, 110), 0.1);
}

TEST(LrSchedule, AnUnknownTypeIsAConfigError) {
  EXPECT_THROW(learning_rate(schedule("triangle"), 50, 110), ConfigError);
}

}  // namespace
}  // namespace locus::train
