#include "locus/base/progress.h"

#include <gtest/gtest.h>

#include <limits>

namespace locus {
namespace {

TEST(FormatDuration, ReadsAsPeopleWriteIt) {
  EXPECT_EQ(format_duration(0), "0s");
  EXPECT_EQ(format_duration(42.4), "42s");
  EXPECT_EQ(format_duration(59.6), "1m00s");
  EXPECT_EQ(format_duration(190), "3m10s");
  EXPECT_EQ(format_duration(7500), "2h05m");
  EXPECT_EQ(format_duration(360000), "100h00m");
  EXPECT_EQ(format_duration(-1), "?");
  EXPECT_EQ(format_duration(std::numeric_limits<double>::infinity()), "?");
}

TEST(ProgressBar, ShowsShareEtaAndText) {
  EXPECT_EQ(ProgressBar::render("train", 25, 100, 30, "loss 3.21", 100),
            "train [######..................]  25% ETA 1m30s  loss 3.21");
}

TEST(ProgressBar, ShowsTheWholeTimeAtTheEnd) {
  EXPECT_EQ(ProgressBar::render("train", 100, 100, 61, "", 100),
            "train [########################] 100% 1m01s");
}

TEST(ProgressBar, ShowsNoEtaBeforeTheFirstUnit) {
  EXPECT_EQ(ProgressBar::render("train", 0, 100, 5, "", 100),
            "train [........................]   0% 5s");
}

TEST(ProgressBar, ShowsOnlyTheTimeWhenTheTotalIsUnknown) {
  EXPECT_EQ(ProgressBar::render("read", 7, 0, 12, "3 MB/s", 100), "read 12s  3 MB/s");
}

TEST(ProgressBar, StaysWithinTheWidthAndTheBarWithinItsEnds) {
  for (int width = 0; width < 120; ++width) {
    const std::string line = ProgressBar::render("what", 3, 7, 9, "some text at the end", width);
    EXPECT_LE(static_cast<int>(line.size()), width);
  }
  EXPECT_EQ(ProgressBar::render("x", 150, 100, 1, "", 80), "x [########################] 100% 1s");
}

TEST(ProgressBar, DrawsOnStderrAndEndsTheLine) {
  testing::internal::CaptureStderr();
  {
    ProgressBar bar("work", 10, ProgressBar::Style::kTerminal);
    bar.update(4, "first");
    bar.update(10, "last");
    bar.finish();
    bar.finish();
  }
  const std::string drawn = testing::internal::GetCapturedStderr();
  EXPECT_NE(drawn.find("\r\x1b[Kwork ["), std::string::npos);
  EXPECT_NE(drawn.find("100%"), std::string::npos);
  EXPECT_EQ(drawn.find('\n'), drawn.size() - 1);
}

TEST(ProgressBar, KeepsSilentWhenAskedAndWhenNothingHappened) {
  testing::internal::CaptureStderr();
  {
    ProgressBar silent("work", 10, ProgressBar::Style::kSilent);
    silent.update(10, "done");
    const ProgressBar idle("work", 10, ProgressBar::Style::kTerminal);
  }
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
}

TEST(ProgressBar, IsWipedForALogLine) {
  testing::internal::CaptureStderr();
  ProgressBar bar("work", 10, ProgressBar::Style::kTerminal);
  bar.update(1, "");
  testing::internal::GetCapturedStderr();
  testing::internal::CaptureStderr();
  ProgressBar::clear_line();
  ProgressBar::clear_line();
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "\r\x1b[K");
  testing::internal::CaptureStderr();
  bar.finish();
  testing::internal::GetCapturedStderr();
}

}  // namespace
}  // namespace locus
