#include "locus/report/run_data.h"

#include <gtest/gtest.h>

#include <cmath>

#include "locus/base/error.h"
#include "locus/report/summary.h"
#include "tests/report/synthetic_run.h"

namespace locus::report {
namespace {

fs::path folder_with(const std::string& metrics) {
  const fs::path folder = fresh_folder("written");
  write_file_atomic(folder / "metrics.jsonl", metrics);
  write_file_atomic(folder / "config.toml", "[train]\nseed = 1\n");
  return folder;
}

std::string train(int64_t step, double loss) {
  return format("{{\"kind\":\"train\",\"step\":{},\"loss\":{}}}\n", step, loss);
}

std::string run_from(const std::string& step) {
  return format("{{\"kind\":\"run\",\"step\":0,\"resumed_from\":{}}}\n", step);
}

std::string message_of(const fs::path& folder) {
  try {
    load_run(folder);
  } catch (const DataError& error) {
    return error.what();
  }
  return "no DataError";
}

void expect_error(const fs::path& folder, const std::string& part) {
  const std::string message = message_of(folder);
  EXPECT_NE(message.find(part), std::string::npos) << message;
}

TEST(RunData, ReadsEveryKindOfLine) {
  const RunData run = load_run(SyntheticRun().write());
  EXPECT_EQ(run.name, "demo");
  EXPECT_EQ(run.info.router, "top_k");
  EXPECT_EQ(run.info.domains.size(), 5u);
  EXPECT_EQ(run.train.size(), 600u);
  EXPECT_EQ(run.train.back().step, 1200);
  EXPECT_EQ(run.train.back().tokens, 1200 * 4096);
  ASSERT_EQ(run.moe.size(), 4u);
  EXPECT_EQ(run.moe.at(7).points.size(), 120u);
  EXPECT_EQ(run.moe.at(7).points.back().tokens_per_expert.size(), 8u);
  EXPECT_EQ(run.moe.at(7).domain_expert.size(), 5u);
  EXPECT_EQ(run.moe.at(7).domain_expert_step, 1200);
  EXPECT_EQ(run.valid.size(), 12u);
  EXPECT_EQ(run.valid.back().by_domain.size(), 5u);
  ASSERT_TRUE(run.end);
  EXPECT_EQ(run.end->reason, "finished");
  ASSERT_TRUE(run.eval);
  EXPECT_EQ(run.eval->score.step, 1200);
  EXPECT_NE(run.samples.find("list_empty"), std::string::npos);
  EXPECT_EQ(run.num_torn_lines, 0);
}

TEST(RunData, NamesARunByItsFolderHoweverItIsWritten) {
  const fs::path folder = folder_with(train(1, 2));
  EXPECT_EQ(load_run(folder / "").name, "written");
  EXPECT_EQ(load_run(folder / ".").name, "written");
}

TEST(RunData, LeavesOutATruncatedLastLine) {
  const RunData run = load_run(folder_with(train(1, 3) + train(2, 2) + R"({"kind":"train","st)"));
  EXPECT_EQ(run.train.size(), 2u);
  EXPECT_EQ(run.num_torn_lines, 1);
}

TEST(RunData, LeavesOutALineThatAKillCutOffBeforeAResume) {
  const RunData run =
      load_run(folder_with(train(1, 3) + "{\"kind\":\"tr\n" + run_from("1") + train(2, 2)));
  EXPECT_EQ(run.train.size(), 2u);
  EXPECT_EQ(run.num_torn_lines, 1);
  EXPECT_EQ(run.num_resumes, 1);
}

TEST(RunData, RefusesABrokenLineInTheMiddle) {
  expect_error(folder_with(train(1, 3) + "{\"kind\":\"tr\n" + train(2, 2)),
               "metrics.jsonl:2: not valid JSON at byte");
  expect_error(folder_with(train(1, 3) + "[1, 2]\n" + train(2, 2)),
               "metrics.jsonl:2: not a JSON object");
  expect_error(
      folder_with(train(1, 3) + "{\"kind\":\"train\",\"step\":2,\"loss\":1e999}\n" + train(3, 2)),
      "metrics.jsonl:2: not valid JSON: ");
}

TEST(RunData, CountsTheLaterLineWhereAStepRepeats) {
  const RunData run = load_run(folder_with(train(1, 5) + train(2, 4) + train(1, 3)));
  ASSERT_EQ(run.train.size(), 2u);
  EXPECT_EQ(run.train[0].loss, 3);
  EXPECT_EQ(run.train[1].loss, 4);
}

TEST(RunData, ForgetsStepsAfterTheOneThatWasResumedFrom) {
  const RunData run = load_run(folder_with(run_from("null") + train(1, 5) + train(2, 4) +
                                           train(3, 9) + run_from("1") + train(2, 3)));
  ASSERT_EQ(run.train.size(), 2u);
  EXPECT_EQ(run.train.back().step, 2);
  EXPECT_EQ(run.train.back().loss, 3);
  EXPECT_EQ(run.num_resumes, 1);
}

TEST(RunData, StartsOverWhereARunWasStartedAnewInTheFolder) {
  const RunData run = load_run(
      folder_with(run_from("null") + train(1, 5) + train(2, 4) + run_from("null") + train(1, 7)));
  ASSERT_EQ(run.train.size(), 1u);
  EXPECT_EQ(run.train[0].loss, 7);
}

TEST(RunData, TakesNullForANumberThatWasNotFinite) {
  const RunData run = load_run(folder_with("{\"kind\":\"train\",\"step\":1,\"loss\":null}\n"));
  ASSERT_EQ(run.train.size(), 1u);
  EXPECT_TRUE(std::isnan(run.train[0].loss));
}

TEST(RunData, LeavesOutKindsOfNewerVersions) {
  EXPECT_EQ(load_run(folder_with(train(1, 2) + "{\"kind\":\"weather\",\"step\":1}\n")).train.size(),
            1u);
}

TEST(RunData, RefusesARunWithoutTrainingLines) {
  expect_error(folder_with(""), "metrics.jsonl: no training line");
  expect_error(folder_with(run_from("null")), "metrics.jsonl: no training line");
}

TEST(RunData, NamesTheMissingFile) {
  expect_error(fs::temp_directory_path() / "locus_report_test" / "nowhere", "no such folder");
  expect_error(fresh_folder("empty"), "metrics.jsonl");
  const fs::path folder = folder_with(train(1, 2));
  fs::remove(folder / "config.toml");
  expect_error(folder, "config.toml");
}

TEST(RunData, NamesLineAndKeyOfAWrongValue) {
  expect_error(folder_with(train(1, 2) + "{\"kind\":\"train\",\"step\":2,\"loss\":\"low\"}\n"),
               "metrics.jsonl:2: \"loss\" must be a number, not string");
  expect_error(folder_with("{\"kind\":\"train\"}\n"), "metrics.jsonl:1: no step number");
  expect_error(folder_with("{\"step\":1}\n"), "metrics.jsonl:1: no text under \"kind\"");
  expect_error(folder_with("{\"kind\":\"moe\",\"step\":1}\n"), "no layer number");
  expect_error(
      folder_with("{\"kind\":\"moe\",\"step\":1,\"layer\":0,\"tokens_per_expert\":[\"a\"]}\n"),
      "\"tokens_per_expert\" must hold numbers only");
}

TEST(RunData, RefusesABrokenEvaluation) {
  const fs::path folder = folder_with(train(1, 2));
  write_file_atomic(folder / "eval.json", "{\"loss\": 1");
  expect_error(folder, "eval.json: not valid JSON");
  write_file_atomic(folder / "eval.json", "{\"loss\": 1e999}");
  expect_error(folder, "eval.json: not valid JSON");
}

std::string exchange(int64_t step, int64_t layer, const std::string& more = "") {
  return format(R"({{"kind":"exchange","step":{},"layer":{},"type":"flat","chunks":2,)"
                R"("inter_bytes":{},"dispatch_inter_bytes":{}{}}})"
                "\n",
                step, layer, 1000 * step, 250 * step, more);
}

std::string run_on_nodes(const std::string& nodes, const std::string& resumed_from = "null") {
  return format(
      "{{\"kind\":\"run\",\"step\":0,\"ranks\":4,\"node_of_ep_rank\":{},\"resumed_from\":{}}}\n",
      nodes, resumed_from);
}

TEST(RunData, ReadsTheExchangesOfEachLayer) {
  SyntheticRun synthetic;
  synthetic.node_of_ep_rank = {0, 0, 1, 1};
  const RunData run = load_run(synthetic.write());
  EXPECT_EQ(run.info.ranks, 4);
  EXPECT_EQ(run.info.node_of_ep_rank, (std::vector<int64_t>{0, 0, 1, 1}));
  ASSERT_EQ(run.exchange.size(), 4u);
  const ExchangeLayerData& layer = run.exchange.at(5);
  EXPECT_EQ(layer.points.size(), 600u);
  const ExchangePoint& point = layer.points.back();
  EXPECT_EQ(point.step, 1200);
  EXPECT_EQ(point.least_inter_bytes, point.inter_bytes);
  EXPECT_GT(point.flat_inter_bytes, 1.6 * point.inter_bytes);
  EXPECT_EQ(point.inter_messages, 8);
  EXPECT_EQ(point.plan_s, 0.0004);
  ASSERT_TRUE(layer.last);
  EXPECT_EQ(layer.last->type, "dedup");
  EXPECT_EQ(layer.last->chunks, 2);
  double inter_bytes = 0, exposed_s = 0;
  for (const ExchangeWay& way : layer.last->ways) {
    inter_bytes += way.inter_bytes;
    exposed_s += way.exposed_s;
  }
  EXPECT_NEAR(inter_bytes, point.inter_bytes, 1);
  EXPECT_NEAR(exposed_s, point.exposed_s, 1e-5);
  ASSERT_EQ(layer.last->rank_bytes.size(), 4u);
  EXPECT_EQ(layer.last->rank_bytes[2][2], 0);
  EXPECT_GT(layer.last->rank_bytes[2][1], 0);
  EXPECT_EQ(layer.last->node_of, run.info.node_of_ep_rank);
}

TEST(RunData, KnowsWhichShareOfTheWaysStaysOnTheNode) {
  const RunData run =
      load_run(folder_with(run_on_nodes("[0,1]") + train(1, 5) + exchange(1, 0) +
                           exchange(1, 2, R"(,"flat_inter_bytes":25,"assigned_bytes":100)")));
  EXPECT_EQ(run.exchange.at(2).points[0].on_node, 0.75);
  EXPECT_TRUE(std::isnan(run.exchange.at(0).points[0].on_node)) << "of older runs";
}

TEST(RunData, ForgetsExchangesAfterTheStepThatWasResumedFrom) {
  const RunData run = load_run(folder_with(
      run_on_nodes("[0,1]") + train(1, 5) + exchange(1, 0) + exchange(1, 2) + train(2, 4) +
      exchange(2, 0, R"(,"rank_bytes":[[0,1],[2,0]])") + run_from("1") + train(2, 3)));
  ASSERT_EQ(run.exchange.size(), 2u);
  ASSERT_EQ(run.exchange.at(0).points.size(), 1u);
  EXPECT_EQ(run.exchange.at(0).points[0].inter_bytes, 1000);
  EXPECT_FALSE(run.exchange.at(0).last) << "of a history that was given up";
  EXPECT_TRUE(run.exchange.at(2).last);
}

TEST(RunData, KnowsNoNodesWhereTheirListIsOfAnotherLayoutThanTheMatrix) {
  const std::string matrix = R"(,"rank_bytes":[[0,1],[2,0]])";
  const RunData run =
      load_run(folder_with(run_on_nodes("[0,0,1,1]") + train(1, 5) + exchange(1, 0, matrix) +
                           run_on_nodes("[0,7]", "1") + exchange(1, 1, matrix)));
  EXPECT_TRUE(run.exchange.at(0).last->node_of.empty());
  EXPECT_EQ(run.exchange.at(1).last->node_of, (std::vector<int64_t>{0, 7}));
}

TEST(RunData, NamesWhatIsWrongInAnExchange) {
  expect_error(folder_with(train(1, 2) + "{\"kind\":\"exchange\",\"step\":1}\n"),
               "metrics.jsonl:2: no layer number");
  expect_error(folder_with(train(1, 2) + exchange(1, 0, R"(,"flight_s":"long")")),
               "\"flight_s\" must be a number, not string");
  expect_error(folder_with(train(1, 2) + exchange(1, 0, R"(,"rank_bytes":[[0,1],[2]])")),
               "\"rank_bytes\" must be a square matrix, but line 2 of 2 holds 1");
  expect_error(folder_with(train(1, 2) + exchange(1, 0, R"(,"rank_bytes":[[0,"a"],[2,0]])")),
               "\"rank_bytes\" must hold numbers only");
  expect_error(folder_with(run_on_nodes("[0,0.5]") + train(1, 2)),
               "\"node_of_ep_rank\" must hold whole numbers only");
}

TEST(RunData, ReadsTheTimelineOfAStep) {
  SyntheticRun synthetic;
  synthetic.node_of_ep_rank = {0, 0, 1, 1};
  synthetic.has_trace = true;
  const RunData run = load_run(synthetic.write());
  ASSERT_TRUE(run.trace) << run.trace_problem;
  EXPECT_TRUE(run.trace_problem.empty());
  ASSERT_EQ(run.trace->ranks.size(), 4u);
  const TraceRank& rank = run.trace->ranks[2];
  EXPECT_EQ(rank.name, "rank 2");
  const TraceBar& last = rank.bars.back();
  EXPECT_EQ(run.trace->names[last.name], "optimizer");
  EXPECT_EQ(run.trace->tracks[last.track], "compute");
  EXPECT_NEAR(last.length_us, 7000, 0.2);
  EXPECT_EQ(run.trace->tracks.size(), 3u);
}

// What the notice says about a run with this trace.json.
std::string trace_notice(const std::string& content) {
  const fs::path folder = folder_with(train(1, 2));
  write_file_atomic(folder / "trace.json", content);
  const RunData run = load_run(folder);
  EXPECT_FALSE(run.trace);
  for (const Notice& notice : find_notices(run)) {
    if (notice.text.find("trace.json") != std::string::npos) return notice.text;
  }
  return "no notice";
}

TEST(RunData, ABrokenTimelineIsANoticeAndNoFailure) {
  const std::string span = R"({"ph":"X","name":"forward","pid":0,"tid":0,"ts":0,"dur":)";
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "not valid JSON at byte 1"},
      {R"({"traceEvents":[)" + span, "not valid JSON at byte"},
      {R"({"traceEvents":[)" + span + "1e999}]}", "not valid JSON: "},
      {"[1]", "no list under \"traceEvents\""},
      {R"({"traceEvents":7})", "no list under \"traceEvents\""},
      {R"({"traceEvents":[]})", "no span in it"},
      {R"({"traceEvents":[4]})", "event 0: not a JSON object"},
      {R"({"traceEvents":[)" + span + "1}," + span + "-1}]}",
       "event 1: no time of 0 or more under \"dur\""},
      {R"({"traceEvents":[{"ph":"X","name":"forward","pid":"a","tid":0,"ts":0,"dur":1}]})",
       "event 0: no whole number under \"pid\""},
      {R"({"traceEvents":[{"ph":"M","name":"thread_name","pid":0,"tid":0,"args":3}]})",
       "event 0: no text under \"name\""},
  };
  for (const auto& [content, part] : cases) {
    const std::string notice = trace_notice(content);
    EXPECT_NE(notice.find("trace.json: "), std::string::npos) << notice;
    EXPECT_NE(notice.find(part), std::string::npos) << content << "\n" << notice;
    EXPECT_TRUE(notice.ends_with("The timeline of the step is left out.")) << notice;
  }
}

TEST(RunData, TakesATimelineOfUnnamedProcessesAndUnknownEvents) {
  const fs::path folder = folder_with(train(1, 2));
  write_file_atomic(folder / "trace.json",
                    R"({"traceEvents":[{"ph":"C","name":"memory"},)"
                    R"({"ph":"X","name":"a","pid":7,"tid":2,"ts":1.5,"dur":2}]})");
  const RunData run = load_run(folder);
  ASSERT_TRUE(run.trace) << run.trace_problem;
  EXPECT_EQ(run.trace->ranks[0].name, "process 7");
  EXPECT_EQ(run.trace->tracks[0], "thread 2");
  EXPECT_EQ(run.trace->ranks[0].bars[0].begin_us, 1.5);
}

TEST(RunData, WarnsOfDivergenceAndOverfitting) {
  const RunData run = load_run(folder_with(
      train(1, 2) +
      "{\"kind\":\"valid\",\"step\":1,\"loss\":2.0}\n{\"kind\":\"valid\",\"step\":2,\"loss\":2.5}\n"
      "{\"kind\":\"end\",\"step\":2,\"reason\":\"diverged\"}\n"));
  const std::vector<Notice> notices = find_notices(run);
  ASSERT_EQ(notices.size(), 2u);
  EXPECT_EQ(notices[0].text, "Training diverged at step 2.");
  EXPECT_EQ(notices[1].text,
            "The validation loss was lowest, 2, at step 1 and has risen to 2.5 since.");
}

TEST(ConfigLines, FlattensTablesAndKeepsValuesAsText) {
  const auto lines =
      read_config_lines("c.toml",
                        "top = 1\n[a.b] # table\nname = \"x # y\"  # comment\n\n# alone\n"
                        "list = [1,\n  2, # two\n]\nlast = 'it''s'\n");
  ASSERT_EQ(lines.size(), 4u);
  EXPECT_EQ(lines[0], (ConfigLine{"top", "1"}));
  EXPECT_EQ(lines[1], (ConfigLine{"a.b.name", "\"x # y\""}));
  EXPECT_EQ(lines[2], (ConfigLine{"a.b.list", "[1, 2, ]"}));
  EXPECT_EQ(lines[3].key, "a.b.last");
}

TEST(ConfigLines, NamesTheLineThatIsNoSetting) {
  const auto error_of = [](std::string_view text) -> std::string {
    try {
      read_config_lines("c.toml", text);
    } catch (const DataError& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(error_of("a = 1\nnonsense\n"),
            "c.toml:2: 'nonsense' is neither a table nor key = value");
  EXPECT_EQ(error_of("[table\n"), "c.toml:1: a table without ']'");
  EXPECT_EQ(error_of("a = \"open\n"), "c.toml:1: a string without its end");
  EXPECT_EQ(error_of("a = [1,\n"), "c.toml:1: an array without its end");
}

}  // namespace
}  // namespace locus::report
