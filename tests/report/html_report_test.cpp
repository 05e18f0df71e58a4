#include "locus/report/html_report.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "locus/report/chart_data.h"
#include "tests/report/synthetic_run.h"

namespace locus::report {
namespace {

using nlohmann::json;

// What the page's script would read.
json embedded_data(const std::string& page) {
  const std::string open = "<script type=\"application/json\" id=\"data\">";
  const size_t begin = page.find(open) + open.size();
  return json::parse(page.substr(begin, page.find("</script>", begin) - begin));
}

size_t count(const std::string& text, const std::string& part) {
  size_t found = 0;
  for (size_t at = text.find(part); at != std::string::npos; at = text.find(part, at + 1)) ++found;
  return found;
}

RunData synthetic(const SyntheticRun& run) { return load_run(run.write()); }

TEST(HtmlReport, IsOnePageThatNeedsNothingElse) {
  const SyntheticRun run;
  const std::string page = make_html_report({synthetic(run)});
  write_file_atomic(fs::temp_directory_path() / "locus_report_test" / "one.html", page);
  EXPECT_EQ(page.find("{{"), std::string::npos);
  EXPECT_EQ(page.find("src="), std::string::npos);
  EXPECT_EQ(page.find("http://"), std::string::npos);
  EXPECT_EQ(page.find("https://"), std::string::npos);
  EXPECT_EQ(page.find("@import"), std::string::npos);
  EXPECT_LT(page.size(), 700'000u);
}

TEST(HtmlReport, SaysInPlainHtmlWhatCameOut) {
  const SyntheticRun run;
  std::string page = make_html_report({synthetic(run)});
  page.resize(page.find("<script"));
  EXPECT_NE(page.find("<h1>demo</h1>"), std::string::npos);
  EXPECT_NE(page.find("A decoder of 9.46 M parameters, of which 7.02 M are active"),
            std::string::npos);
  EXPECT_NE(page.find("1,200 steps"), std::string::npos);
  EXPECT_NE(page.find("<noscript>"), std::string::npos);
  EXPECT_NE(page.find("Layer 7: 1 of 8 experts got no token in step 1200 (expert 6)."),
            std::string::npos);
  EXPECT_NE(page.find("<th scope=\"row\">licences</th>"), std::string::npos);
  EXPECT_NE(page.find("moe.router.top_k"), std::string::npos);
}

TEST(HtmlReport, EscapesAllThatComesFromFiles) {
  const SyntheticRun run;
  RunData data = synthetic(run);
  const std::string evil = "</script><img onerror=alert(1) src=x>\"'&";
  data.name = evil;
  data.samples = evil;
  data.info.router = evil;
  data.info.domains[0] = evil;
  data.config = {{evil, evil}};
  data.eval->data = evil;
  data.eval->rule = evil;
  data.eval->score.by_domain[0].name = evil;
  data.end->reason = evil;
  for (const auto& runs : {std::vector{data}, std::vector{data, synthetic(run)}}) {
    const std::string page = make_html_report(runs);
    EXPECT_EQ(page.find("<img"), std::string::npos);
    EXPECT_EQ(count(page, "<script"), count(page, "</script>"));
    EXPECT_EQ(count(page, "</script>"), 4u);
    EXPECT_EQ(embedded_data(page)["runs"][0]["name"], evil);
  }
}

TEST(HtmlReport, ShowsSamplesAsText) {
  const SyntheticRun run;
  const std::string page = make_html_report({synthetic(run)});
  EXPECT_NE(page.find("&lt;script&gt;alert(1)&lt;/script&gt; &amp; &quot;quoted&quot;"),
            std::string::npos);
}

TEST(HtmlReport, SurvivesTextThatIsNotUtf8) {
  const SyntheticRun run;
  RunData data = synthetic(run);
  data.name = "caf\xE9";
  data.samples = std::string("\xFF\xFE\0 bytes", 9);
  const std::string page = make_html_report({data});
  EXPECT_EQ(page.find('\0'), std::string::npos);
  EXPECT_EQ(embedded_data(page)["runs"][0]["name"], "caf\xEF\xBF\xBD");
}

TEST(HtmlReport, CutsLongSamplesBetweenCharacters) {
  const SyntheticRun run;
  RunData data = synthetic(run);
  data.samples.clear();
  for (int i = 0; i < 150'000; ++i) data.samples += "\xC3\xA9";  // two bytes each
  data.samples.insert(0, "x");
  const std::string page = make_html_report({data});
  EXPECT_NE(page.find("\xC3\xA9</pre><p class=\"fine\">Cut here"), std::string::npos);
}

TEST(HtmlReport, OverlaysRunsOfDifferentShapes) {
  const SyntheticRun first;
  SyntheticRun second;
  second.name = "switch-16";
  second.seed = 2;
  second.num_experts = 16;
  second.moe_layers = {0, 1, 2, 3, 4, 5};
  second.num_layers = 6;
  second.num_steps = 900;
  second.capability = 0.15;
  second.dropped = 0.06;
  second.has_end = false;
  SyntheticRun dense;
  dense.name = "dense";
  dense.seed = 3;
  dense.moe_layers = {};
  dense.capability = -0.2;
  const std::string page =
      make_html_report({synthetic(first), synthetic(second), synthetic(dense)});
  write_file_atomic(fs::temp_directory_path() / "locus_report_test" / "three.html", page);
  const json runs = embedded_data(page)["runs"];
  ASSERT_EQ(runs.size(), 3u);
  EXPECT_EQ(runs[0]["moe"].size(), 4u);
  EXPECT_EQ(runs[1]["moe"].size(), 6u);
  EXPECT_EQ(runs[1]["moe"][0]["load"].size(), 16u);
  EXPECT_TRUE(runs[2]["moe"].empty());
  EXPECT_NE(page.find("Comparison of 3 runs"), std::string::npos);
  EXPECT_NE(page.find("of the assignments are dropped."), std::string::npos);
  EXPECT_NE(page.find("<tr><th scope=\"row\">moe.router.type</th><td>&quot;top_k&quot;</td>"),
            std::string::npos);
  EXPECT_EQ(page.find("<th scope=\"row\">train.learning_rate"), std::string::npos)
      << "equal in all";
}

TEST(HtmlReport, TellsRunsOfOneNameApartByTheirFolders) {
  const SyntheticRun run;
  RunData a = synthetic(run);
  RunData b = a;
  a.folder = "first/demo";
  b.folder = "second/demo";
  const json runs = embedded_data(make_html_report({a, b}))["runs"];
  EXPECT_EQ(runs[0]["name"], "first/demo");
  EXPECT_EQ(runs[1]["name"], "second/demo");
}

TEST(HtmlReport, StaysSmallForLongRunsWithManyExperts) {
  SyntheticRun run;
  run.num_steps = 100'000;
  run.interval = 1;
  run.samples = 250;
  run.num_experts = 64;
  run.moe_layers.clear();
  for (int64_t layer = 0; layer < 24; ++layer) run.moe_layers.push_back(layer);
  const RunData data = synthetic(run);
  const std::string page = make_html_report({data, data, data});
  EXPECT_LT(page.size(), 2'000'000u);
  const json one = embedded_data(make_html_report({data}))["runs"][0];
  EXPECT_LE(one["curves"]["loss"]["v"].size(), 2000u);
  EXPECT_GT(one["curves"]["loss"]["v"].size(), 1500u);
  EXPECT_LE(one["moe"][0]["load"][0].size(), 200u);
}

TEST(ChartData, WritesNullForALossThatWasNotFinite) {
  const SyntheticRun run;
  RunData data = synthetic(run);
  data.train[10].loss = kMissing;
  const json loss = json::parse(make_chart_json({data}))["runs"][0]["curves"]["loss"];
  EXPECT_TRUE(loss["v"][10].is_null());
  EXPECT_FALSE(loss["v"][11].is_null());
  EXPECT_NE(make_html_report({data}).find("1 training line without a finite loss"),
            std::string::npos);
}

TEST(ChartData, LeavesOutCurvesWithoutAnyValue) {
  const SyntheticRun run;
  RunData data = synthetic(run);
  for (TrainPoint& point : data.train) point.grad_norm = kMissing;
  EXPECT_FALSE(json::parse(make_chart_json({data}))["runs"][0]["curves"].contains("grad_norm"));
}

TEST(ChartData, GivesLoadInPercentOfAnEvenShare) {
  const SyntheticRun run;
  RunData data = synthetic(run);
  data.moe.clear();
  data.moe[2].points = {{.step = 5, .tokens_per_expert = {30, 10, 0, 0}},
                        {.step = 9, .tokens_per_expert = {5, 5}}};  // experts may be merged
  const json layer = json::parse(make_chart_json({data}))["runs"][0]["moe"][0];
  EXPECT_EQ(layer["layer"], 2);
  EXPECT_EQ(layer["s"], json::parse("[5, 4]"));
  EXPECT_EQ(layer["load"], json::parse("[[300, 100], [100, 100], [0, null], [0, null]]"));
}

TEST(HtmlReport, ReportsARunWithOneTrainingLine) {
  SyntheticRun run;
  run.num_steps = run.interval;
  run.moe_layers = {};
  const RunData data = synthetic(run);
  ASSERT_EQ(data.train.size(), 1u);
  const std::string page = make_html_report({data});
  write_file_atomic(fs::temp_directory_path() / "locus_report_test" / "short.html", page);
  EXPECT_EQ(embedded_data(page)["runs"][0]["curves"]["loss"]["v"].size(), 1u);
}

}  // namespace
}  // namespace locus::report
