#include "locus/report/text.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "locus/base/error.h"
#include "locus/report/downsample.h"

namespace locus::report {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

TEST(ReportText, EscapesHtml) {
  EXPECT_EQ(escape_html("<a href=\"x\">'&'</a>"),
            "&lt;a href=&quot;x&quot;&gt;&#39;&amp;&#39;&lt;/a&gt;");
}

TEST(ReportText, LeavesNoTagInScriptJson) {
  EXPECT_EQ(escape_script_json("[\"</script><!--\"]"), "[\"\\u003c/script>\\u003c!--\"]");
}

TEST(ReportText, WritesNumbersForPeople) {
  EXPECT_EQ(human_count(480), "480");
  EXPECT_EQ(human_count(999.7), "1.00 k");
  EXPECT_EQ(human_count(12'345'678), "12.3 M");
  EXPECT_EQ(human_count(2.5e11), "250 G");
  EXPECT_EQ(human_number(3.41234), "3.412");
  EXPECT_EQ(human_number(123.456), "123.5");
  EXPECT_EQ(human_number(1234.56), "1,235");
  EXPECT_EQ(human_number(2'000'000), "2.00 M");
  EXPECT_EQ(human_percent(0.1234), "12.3 %");
  EXPECT_EQ(human_percent(0.00123), "0.12 %");
  EXPECT_EQ(human_percent(1), "100 %");
  EXPECT_EQ(human_integer(1'234'567), "1,234,567");
  EXPECT_EQ(human_integer(-1'234), "-1,234");
  EXPECT_EQ(human_seconds(0.14), "140 ms");
  EXPECT_EQ(human_seconds(3.21), "3.2 s");
  EXPECT_EQ(human_seconds(190), "3m10s");
  EXPECT_EQ(counted(1, "layer"), "1 layer");
  EXPECT_EQ(counted(3, "layer"), "3 layers");
}

TEST(ReportText, WritesADashForWhatIsMissing) {
  for (const auto& text : {human_count(kNan), human_number(kNan), human_percent(kNan),
                           human_integer(kNan), human_seconds(kNan)}) {
    EXPECT_EQ(text, "\xE2\x80\x93");
  }
}

TEST(FillTemplate, DoesNotSearchWhatItPutsIn) {
  EXPECT_EQ(fill_template("a {{x}} b {{y}}{{x}}", {{"x", "{{y}}"}, {"y", "1"}}),
            "a {{y}} b 1{{y}}");
  EXPECT_THROW(fill_template("{{unknown}}", {}), InternalError);
  EXPECT_THROW(fill_template("{{open", {}), InternalError);
}

TEST(Downsample, KeepsShortCurvesWhole) {
  const std::vector<double> values = {3, 1, kNan};
  EXPECT_EQ(min_max_indices(values, 4), (std::vector<size_t>{0, 1, 2}));
}

TEST(Downsample, KeepsEverySpikeAndBothEnds) {
  std::vector<double> values(100'000, 1.0);
  for (size_t i = 0; i < values.size(); ++i) values[i] += 1e-6 * static_cast<double>(i % 7);
  values[4'321] = 99;
  values[77'777] = -5;
  values[50'000] = kNan;
  const std::vector<size_t> kept = min_max_indices(values, 2'000);
  EXPECT_LE(kept.size(), 2'000u);
  EXPECT_TRUE(std::is_sorted(kept.begin(), kept.end()));
  EXPECT_EQ(kept.front(), 0u);
  EXPECT_EQ(kept.back(), values.size() - 1);
  EXPECT_TRUE(std::binary_search(kept.begin(), kept.end(), 4'321u));
  EXPECT_TRUE(std::binary_search(kept.begin(), kept.end(), 77'777u));
}

TEST(Downsample, KeepsAGapThatFillsAWholePart) {
  std::vector<double> values(1'000, 1.0);
  std::fill(values.begin() + 400, values.begin() + 600, kNan);
  bool gap = false;
  for (const size_t i : min_max_indices(values, 50)) gap = gap || std::isnan(values[i]);
  EXPECT_TRUE(gap);
}

TEST(Downsample, SplitsIntoPartsThatCoverAll) {
  const std::vector<Range> ranges = split_evenly(10, 4);
  ASSERT_EQ(ranges.size(), 4u);
  size_t next = 0;
  for (const auto& [begin, end] : ranges) {
    EXPECT_EQ(begin, next);
    EXPECT_GT(end, begin);
    next = end;
  }
  EXPECT_EQ(next, 10u);
  EXPECT_TRUE(split_evenly(0, 4).empty());
}

TEST(Downsample, TakesTheMeanOfWhatIsFinite) {
  const std::vector<double> values = {1, kNan, 3};
  EXPECT_EQ(finite_mean(values), 2);
  EXPECT_TRUE(std::isnan(finite_mean({})));
}

}  // namespace
}  // namespace locus::report
