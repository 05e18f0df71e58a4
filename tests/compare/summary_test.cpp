#include "locus/compare/summary.h"

#include <gtest/gtest.h>

#include <cmath>

#include "locus/compare/svg_chart.h"

namespace locus::compare {
namespace {

// Losses fall by equal parts from 8 to `loss`, at five validations.
Result result_of(const std::string& variant, int64_t seed, double loss, double flops_per_step) {
  Result result;
  result.variant = variant;
  result.seed = seed;
  result.folder = "runs/" + variant;
  for (int i = 1; i <= 5; ++i) {
    const double step = 20 * i;
    result.curve.push_back({step, step * flops_per_step, step * 0.5, 8 + (loss - 8) * i / 5});
  }
  result.loss = loss;
  result.steps = 100;
  result.flops = 100 * flops_per_step;
  result.wall_s = 50;
  result.active_parameters = 1e6;
  result.peak_rss_bytes = 100 << 20;
  result.experts_per_token = std::nan("");
  result.dropped_share = 0.25;
  result.load_max_over_mean = 1.5;
  return result;
}

std::vector<Summary> example() {
  return summarize({result_of("base", 1, 4.0, 10), result_of("base", 2, 4.4, 10),
                    result_of("better", 1, 3.0, 20), result_of("better", 2, 3.4, 20),
                    result_of("worse & <so>", 1, 4.5, 10), result_of("worse & <so>", 2, 5, 10)});
}

TEST(ReachedAt, IsBetweenPointsByAStraightLine) {
  const Result result = result_of("one", 1, 3.0, 10);  // 7, 6, 5, 4, 3
  EXPECT_DOUBLE_EQ(reached_at(result.curve, 4.0, &CurvePoint::step), 80);
  EXPECT_DOUBLE_EQ(reached_at(result.curve, 4.5, &CurvePoint::step), 70);
  EXPECT_DOUBLE_EQ(reached_at(result.curve, 4.5, &CurvePoint::flops), 700);
  EXPECT_DOUBLE_EQ(reached_at(result.curve, 9, &CurvePoint::step), 20);
  EXPECT_TRUE(std::isnan(reached_at(result.curve, 2.9, &CurvePoint::step)));
}

TEST(Summaries, SetVariantsBesideTheFirst) {
  const std::vector<Summary> all = example();
  ASSERT_EQ(all.size(), 3u);
  EXPECT_NEAR(all[1].loss, 3.2, 1e-12);
  EXPECT_NEAR(all[1].difference.mean, -1, 1e-12);
  EXPECT_TRUE(all[1].difference.is_sure());
  EXPECT_FALSE(all[2].difference.is_sure());
  // Seed 1 is at 4.0 after 80 steps, seed 2 at 4.4 after 78.26.
  EXPECT_NEAR(all[1].steps_to_reach, (0.8 + 0.9 * 100 / 115.0) / 2, 1e-3);
  EXPECT_NEAR(all[1].flops_to_reach, 2 * all[1].steps_to_reach, 1e-9);
  EXPECT_EQ(all[2].num_reached, 0);
}

TEST(Summaries, AreATable) {
  const std::string table = to_markdown({"three variants", {"Two seeds."}}, example());
  EXPECT_NE(table.find("# three variants\n\nTwo seeds.\n"), std::string::npos) << table;
  EXPECT_NE(table.find("| better | 3.2000 +- 0.2828 | -1.0000 (-1.0000 to -1.0000) | 100 | 2.00 |"),
            std::string::npos)
      << table;
  EXPECT_NE(table.find("| never |"), std::string::npos);
  EXPECT_NE(table.find("| 25.0% |"), std::string::npos);
}

TEST(Summaries, AreAFileOfTrainings) {
  const std::string csv = to_csv(example());
  EXPECT_EQ(std::count(csv.begin(), csv.end(), '\n'), 7);
  EXPECT_NE(csv.find("\"better\",2,3.4,100,2000,50,1000000,104857600,,0.25,1.5,runs/better\n"),
            std::string::npos)
      << csv;
}

TEST(Summaries, AreAPageThatEscapesWhatItShows) {
  const std::string page = to_html({"a <b>", {}}, example());
  EXPECT_EQ(page.find("<so>"), std::string::npos);
  EXPECT_NE(page.find("worse &amp; &lt;so&gt;"), std::string::npos);
  EXPECT_NE(page.find("<title>a &lt;b&gt;</title>"), std::string::npos);
  size_t charts = 0;
  for (size_t at = page.find("<svg"); at != std::string::npos; at = page.find("<svg", at + 1)) {
    ++charts;
  }
  EXPECT_EQ(charts, 3u);
  EXPECT_EQ(page.find("nan"), std::string::npos);
}

TEST(Ticks, AreRoundNumbers) {
  EXPECT_EQ(round_ticks(0, 10, 5), (std::vector<double>{0, 2, 4, 6, 8, 10}));
  const std::vector<double> ticks = round_ticks(3.17, 4.4, 5);
  EXPECT_NEAR(ticks.front(), 3.5, 1e-12);
  EXPECT_NEAR(ticks.back(), 4.0, 1e-12);
  EXPECT_EQ(round_ticks(2, 2, 5), std::vector<double>{2});
}

}  // namespace
}  // namespace locus::compare
