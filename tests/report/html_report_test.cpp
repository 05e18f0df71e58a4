#include "locus/report/html_report.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "locus/report/chart_data.h"
#include "locus/report/communication.h"
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

TEST(HtmlReport, SaysWhatKindOfModelItWas) {
  const SyntheticRun run;
  RunData data = synthetic(run);
  data.info.num_encoder_layers = data.info.num_layers;
  EXPECT_NE(make_html_report({data}).find("An encoder of 9.46 M"), std::string::npos);
  EXPECT_NE(make_html_report({data}).find("Masked-token accuracy"), std::string::npos);
  data.info.num_encoder_layers = 1;
  EXPECT_NE(make_html_report({data}).find("An encoder-decoder of 9.46 M"), std::string::npos);
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
  data.exchange[1].points = {{.step = 5}};
  data.exchange[1].last = ExchangeDetail{.type = evil};
  data.trace = Trace{{evil}, {evil}, {{evil, {{0, 0, 1, 2}}}}};
  data.trace_problem = evil;
  for (const auto& runs : {std::vector{data}, std::vector{data, synthetic(run)}}) {
    const std::string page = make_html_report(runs);
    EXPECT_EQ(page.find("<img"), std::string::npos);
    EXPECT_EQ(count(page, "<script"), count(page, "</script>"));
    EXPECT_EQ(count(page, "</script>"), 5u);
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

SyntheticRun on_nodes(std::vector<int64_t> node_of_ep_rank) {
  SyntheticRun run;
  run.node_of_ep_rank = std::move(node_of_ep_rank);
  return run;
}

TEST(HtmlReport, ShowsCommunicationOnlyWhereThereIsSome) {
  SyntheticRun with = on_nodes({0, 0, 1, 1});
  with.name = "four";
  const SyntheticRun without;
  for (const char* part : {"id=\"communication\"", "href=\"#communication\"", "id=\"timelines\""}) {
    EXPECT_EQ(make_html_report({synthetic(without)}).find(part), std::string::npos) << part;
  }
  const std::string page = make_html_report({synthetic(without), synthetic(with)});
  EXPECT_EQ(count(page, "id=\"communication\""), 1u);
  EXPECT_EQ(count(page, "href=\"#communication\""), 1u);
  const json runs = embedded_data(page)["runs"];
  EXPECT_FALSE(runs[0].contains("exchange"));
  EXPECT_EQ(runs[1]["exchange"]["curves"].size(), 6u);
  EXPECT_EQ(count(page, "<table class=\"figures\">"), 2u) << "by layer and by way, of one run";
}

TEST(HtmlReport, SaysWhatCommunicationCost) {
  SyntheticRun run = on_nodes({0, 0, 1, 1});
  run.ranks = 8;
  RunData data = synthetic(run);
  for (auto& [number, layer] : data.exchange) {
    layer.points.back() = {.step = 1200,
                           .intra_bytes = 1e6,
                           .inter_bytes = 3e6,
                           .least_inter_bytes = 2e6,
                           .flat_inter_bytes = 4e6,
                           .inter_messages = 1024,
                           .flight_s = 0.1,
                           .exposed_s = 0.025,
                           .plan_s = 0.001};
  }
  data.train.back().step_time_s = 0.5;
  const std::string page = make_html_report({data});
  EXPECT_NE(page.find("The experts are on 4 ranks of 2 nodes; 2 such groups train side by side"),
            std::string::npos);
  EXPECT_NE(
      page.find("In step 1,200, 12.0 MB went between nodes, 1.50 times the fewest possible for "
                "this routing and 25.0 % less than a row for every assignment, and 4.00 MB "
                "within them. A rank waited 100 ms for rows: 20.0 % of a step, and 25.0 % of "
                "the time that they were under way."),
      std::string::npos);
  EXPECT_NE(page.find("<tr><th scope=\"row\">5</th><td>dedup</td><td>2</td><td>1.00 MB</td>"
                      "<td>3.00 MB</td><td>2.00 MB</td><td>1.00 MB (25.0 %)</td><td>1,024</td>"
                      "<td>100 ms</td><td>25 ms</td><td>1 ms</td></tr>"),
            std::string::npos);
  EXPECT_NE(page.find("<tr class=\"total\"><th scope=\"row\">All</th><td></td><td></td>"
                      "<td>4.00 MB</td><td>12.0 MB</td>"),
            std::string::npos);
}

TEST(HtmlReport, SaysHowManyWaysStayedOnTheNodeAndWhatEachMeasureSaved) {
  RunData data = synthetic(on_nodes({0, 0, 1, 1}));
  for (auto& [number, layer] : data.exchange) {
    for (ExchangePoint& point : layer.points) {
      point.flat_inter_bytes = 1e6;
      point.assigned_bytes = 4e6;
      point.inter_bytes = 5e5;
      point.on_node = 0.75;
    }
  }
  EXPECT_EQ(data.exchange.size(), 4u);
  data.placement = {{10, 0.5, 0.25}, {1182, 0.6, 0.25}, {1200, 0.8, 0.25}, {1300, 0, 0}};
  data.migration[1] = {{20, 3, 0, 1e6, 1e5}, {40, 0, 2, 1e4, 1e5}};
  const std::string page = make_html_report({data});
  EXPECT_EQ(count(page, "id=\"locality\""), 1u);
  EXPECT_EQ(count(page, "href=\"#locality\""), 1u);
  for (const char* part :
       {"up to step 1,200, 75.0 % of the tokens' ways to experts stayed on their node. Experts "
        "changed ranks 3 "
        "times, "
        "to save 1.01 MB between nodes.",
        "the most possible</span></th><td>16.0 MB</td><td>100 %</td><td></td>",
        "experts where they are <span>expected</span></th><td>12.0 MB</td><td>75.0 %</td>"
        "<td>4.00 MB</td>",
        "sequences placed near their experts <span>expected</span></th><td>4.80 MB</td>"
        "<td>30.0 %</td><td>7.20 MB</td>",
        "the same <span>observed</span></th><td>4.00 MB</td><td>25.0 %</td><td>800 kB</td>",
        "the exchange (dedup) <span>observed</span></th><td>2.00 MB</td><td>12.5 %</td>"
        "<td>2.00 MB</td>",
        "<th scope=\"row\">5</th><td>75.0 %</td><td>75.0 %</td>", "Who sends to whom, by node",
        "<tr><th scope=\"row\">0</th><td></td><td>"}) {
    EXPECT_NE(page.find(part), std::string::npos) << part;
  }
  const json curves = embedded_data(page)["runs"][0]["exchange"]["curves"];
  EXPECT_TRUE(curves.contains("on_node") && curves.contains("expected_on_node") &&
              curves.contains("unplaced_on_node"))
      << curves;
  EXPECT_TRUE(embedded_data(page)["runs"][0]["moe"][0]["curves"].contains("on_node"));
  for (auto& [number, layer] : data.exchange) {
    for (ExchangePoint& point : layer.points) point.assigned_bytes = kMissing;
  }
  EXPECT_EQ(make_html_report({data}).find("id=\"locality\""), std::string::npos);
}

TEST(HtmlReport, ShowsATimelineAlsoWithoutExchanges) {
  const SyntheticRun run;
  RunData data = synthetic(run);
  data.trace = Trace{{"forward"}, {"compute"}, {{"rank 0", {{0, 0, 0, 5}}}}};
  const std::string page = make_html_report({data});
  EXPECT_EQ(count(page, "id=\"timelines\""), 1u);
  EXPECT_EQ(page.find("id=\"communication\""), std::string::npos);
}

TEST(HtmlReport, HoldsMatrixAndTimelineOfEachRun) {
  SyntheticRun first = on_nodes({0, 0, 1, 1, 2, 2, 3, 3});
  first.name = "dedup";
  first.num_experts = 16;
  first.interval = 8;
  first.has_trace = true;
  SyntheticRun second = first;
  second.name = "flat";
  second.seed = 2;
  second.node_of_ep_rank = {0, 0, 1, 1};
  second.exchange_type = "flat";
  second.chunks = 1;
  const fs::path folder = fs::temp_directory_path() / "locus_report_test";
  write_file_atomic(folder / "communication.html", make_html_report({synthetic(first)}));
  const std::string page = make_html_report({synthetic(first), synthetic(second)});
  write_file_atomic(folder / "communication_two.html", page);
  const json runs = embedded_data(page)["runs"];
  EXPECT_EQ(runs[0]["exchange"]["matrix"]["bytes"].size(), 8u);
  EXPECT_EQ(runs[1]["exchange"]["matrix"]["bytes"].size(), 4u);
  EXPECT_EQ(runs[1]["exchange"]["matrix"]["node"], json::parse("[0, 0, 1, 1]"));
  EXPECT_EQ(runs[0]["trace"]["step"], 40);
  EXPECT_EQ(page.find("https://"), std::string::npos);
}

TEST(Communication, SumsStepsThatAllLayersHave) {
  RunData run;
  run.train = {{.step = 1, .step_time_s = 0.5}, {.step = 2, .step_time_s = 0.25}};
  const ExchangePoint one{1, 10, 20, 15, 40, 2, 0.2, 0.1, 0.01};
  run.exchange[0].points = {one, {.step = 2}, {.step = 3}};
  run.exchange[4].points = {one, {.step = 2}};
  const std::vector<ExchangeStep> steps = sum_over_layers(run);
  ASSERT_EQ(steps.size(), 2u) << "step 3 was cut off";
  EXPECT_EQ(steps[0].intra_bytes, 20);
  EXPECT_EQ(steps[0].flat_inter_bytes, 80);
  EXPECT_EQ(steps[0].inter_messages, 4);
  EXPECT_DOUBLE_EQ(steps[0].exposed_of_step, 0.4);
  EXPECT_DOUBLE_EQ(steps[0].exposed_of_flight, 0.5);
  EXPECT_TRUE(std::isnan(steps[1].inter_bytes));
  EXPECT_TRUE(std::isnan(steps[1].exposed_of_step));
}

ExchangeLayerData layer_with(int64_t step, std::vector<std::vector<double>> rank_bytes) {
  ExchangeLayerData layer{.points = {{.step = step}}, .last = ExchangeDetail()};
  layer.last->rank_bytes = std::move(rank_bytes);
  return layer;
}

TEST(Communication, SumsTheMatricesOfTheLatestLayout) {
  RunData run;
  run.exchange[0] = layer_with(3, {{0, 1, 1}, {1, 0, 1}, {1, 1, 0}});
  run.exchange[1] = layer_with(5, {{0, 2}, {3, 0}});
  run.exchange[2] = layer_with(5, {{0, 20}, {30, 0}});
  run.exchange[3] = layer_with(4, {});
  const RankMatrix matrix = sum_rank_bytes(run);
  EXPECT_EQ(matrix.step, 5);
  EXPECT_EQ(matrix.bytes, (std::vector<std::vector<double>>{{0, 22}, {33, 0}}));
}

TEST(ChartData, MergesNeighboursInALargeMatrix) {
  RunData run = synthetic(SyntheticRun());
  const std::vector<std::vector<double>> ones(300, std::vector<double>(300, 1));
  run.exchange[0] = layer_with(1, ones);
  const json matrix = json::parse(make_chart_json({run}))["runs"][0]["exchange"]["matrix"];
  EXPECT_EQ(matrix["ranks"], 300);
  EXPECT_EQ(matrix["merged"], 3);
  ASSERT_EQ(matrix["bytes"].size(), 100u);
  EXPECT_EQ(matrix["bytes"][99].size(), 100u);
  EXPECT_EQ(matrix["bytes"][99][7], 9);
}

TEST(ChartData, GivesTheBarsOfAStepInOrder) {
  RunData run = synthetic(SyntheticRun());
  run.trace = Trace{{"never", "experts", "forward"},
                    {"compute", "wait"},
                    {{"rank 0", {{1, 0, 100.4, 50}, {2, 0, 0, 200.6}, {1, 1, 0, 30}}}}};
  const json trace = json::parse(make_chart_json({run}))["runs"][0]["trace"];
  EXPECT_TRUE(trace["step"].is_null()) << "the settings do not say";
  EXPECT_EQ(trace["names"], json::parse(R"(["forward", "experts"])")) << "those in use";
  const json bars = trace["ranks"][0]["bars"];
  EXPECT_EQ(bars["n"], json::parse("[0, 1, 1]"));
  EXPECT_EQ(bars["t"], json::parse("[0, 1, 0]"));
  EXPECT_EQ(bars["b"], json::parse("[0, 0, 100]"));
  EXPECT_EQ(bars["d"], json::parse("[201, 30, 50]"));
  EXPECT_EQ(trace["num_dropped"], 0);
}

TEST(ChartData, LeavesOutTheShortestBars) {
  RunData run = synthetic(SyntheticRun());
  run.trace = Trace{{"experts"}, {"compute"}, std::vector<TraceRank>(40)};
  for (TraceRank& rank : run.trace->ranks) {
    for (int i = 0; i < 100; ++i) rank.bars.push_back({0, 0, 10.0 * i, i < 90 ? 4.0 : 9.0});
  }
  const json trace = json::parse(make_chart_json({run}))["runs"][0]["trace"];
  EXPECT_EQ(trace["num_ranks"], 40);
  ASSERT_EQ(trace["ranks"].size(), 32u);
  EXPECT_EQ(trace["num_dropped"], 200);
  EXPECT_EQ(trace["dropped_us"], 4);
  size_t bars = 0, long_bars = 0;
  for (const json& rank : trace["ranks"]) {
    for (const json& length : rank["bars"]["d"]) {
      ++bars;
      if (length == 9) ++long_bars;
    }
  }
  EXPECT_EQ(bars, 3000u);
  EXPECT_EQ(long_bars, 320u) << "all of the longer ones stay";
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
