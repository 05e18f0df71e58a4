#include "locus/train/metrics.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmath>
#include <csignal>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "locus/base/error.h"
#include "locus/base/file.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_folder.h"

namespace locus::train {
namespace {

constexpr std::string_view kHeader =
    "step,loss,perplexity,aux_loss,lr,grad_norm,tokens,tokens_per_s,flops_per_s,flops_share,"
    "step_time_s,time_data_s,time_forward_s,time_backward_s,time_optimizer_s,time_other_s,"
    "skipped_steps,rss_bytes\n";

TEST(MetricLine, IsOneJsonObjectWithItsKeysInOrder) {
  MetricLine line("train", 7);
  line.set("loss", 3.25).set("tokens", 1 << 20).set("big", uint64_t{1} << 40);
  line.set("reason", "finished").set("on", true).set("resumed_from", nullptr);
  EXPECT_EQ(line.to_json(),
            R"({"kind":"train","step":7,"loss":3.25,"tokens":1048576,"big":1099511627776,)"
            R"("reason":"finished","on":true,"resumed_from":null})");
}

TEST(MetricLine, HoldsListsMatricesAndObjects) {
  MetricLine line("moe", 1);
  line.set("tokens_per_expert", std::vector<int64_t>{3, 0, 5});
  line.set("domain_expert", std::vector<std::vector<int64_t>>{{1, 2}, {3, 4}});
  line.set("shares", std::vector<std::vector<double>>{{0.5}, {}});
  line.set("domains", std::vector<std::string>{"c", "python"});
  line.set("by_domain", MetricObject{{"c", MetricObject{{"loss", 2.5}, {"tokens", 9}}}});
  EXPECT_EQ(line.to_json(),
            R"({"kind":"moe","step":1,"tokens_per_expert":[3,0,5],"domain_expert":[[1,2],[3,4]],)"
            R"("shares":[[0.5],[]],"domains":["c","python"],)"
            R"("by_domain":{"c":{"loss":2.5,"tokens":9}}})");
}

TEST(MetricLine, WritesNullForWhatIsNotFinite) {
  const double infinity = std::numeric_limits<double>::infinity();
  MetricLine line("train", 1);
  line.set("loss", std::nan("")).set("grad_norm", -infinity);
  line.set("list", std::vector<double>{1.0, infinity});
  EXPECT_EQ(line.to_json(),
            R"({"kind":"train","step":1,"loss":null,"grad_norm":null,"list":[1.0,null]})");
}

TEST(MetricLine, RoundTripsDoublesAndReplacesInvalidText) {
  MetricLine line("train", 1);
  line.set("loss", 0.1 + 0.2).set("path", "a\xff\n");
  const auto json = nlohmann::json::parse(line.to_json());
  EXPECT_EQ(json["loss"].get<double>(), 0.1 + 0.2);
  EXPECT_EQ(json["path"], "a\xef\xbf\xbd\n");
  EXPECT_EQ(line.to_json().find('\n'), std::string::npos);
}

TEST(MetricLine, RefusesAKeyThatIsSetTwice) {
  MetricLine line("train", 1);
  line.set("loss", 1.0);
  EXPECT_THROW(line.set("loss", 2.0), InternalError);
  EXPECT_THROW(line.set("step", 2), InternalError);
}

class Metrics : public ::testing::Test {
 protected:
  static MetricLine train_line(int64_t step, double loss) {
    MetricLine line("train", step);
    line.set("loss", loss).set("tokens", step * 100).set("another", 5.0);
    return line;
  }
  std::string jsonl() const { return read_file(folder_ / "run/metrics.jsonl"); }
  std::string csv() const { return read_file(folder_ / "run/metrics.csv"); }
  void add_to(std::string_view name, std::string_view text) const {
    std::ofstream(folder_ / "run" / name, std::ios::app) << text;
  }

  const test::TempFolder folder_;
  const fs::path run_ = folder_ / "run";
};

TEST_F(Metrics, WritesEveryLineAndTheTrainLinesAsATable) {
  MetricsWriter writer(run_, {}, false);
  writer.write(train_line(1, 3.5));
  writer.write(MetricLine("valid", 1).set("loss", 3.0));
  writer.write(train_line(2, std::nan("")));
  EXPECT_EQ(jsonl(),
            "{\"kind\":\"train\",\"step\":1,\"loss\":3.5,\"tokens\":100,\"another\":5.0}\n"
            "{\"kind\":\"valid\",\"step\":1,\"loss\":3.0}\n"
            "{\"kind\":\"train\",\"step\":2,\"loss\":null,\"tokens\":200,\"another\":5.0}\n");
  EXPECT_EQ(csv(), std::string(kHeader) + "1,3.5,,,,,100,,,,,,,,,,,\n2,,,,,,200,,,,,,,,,,,\n");
  EXPECT_FALSE(fs::exists(run_ / "tensorboard"));
}

TEST_F(Metrics, StartsAnewWithoutAResume) {
  MetricsWriter(run_, {}, false).write(train_line(1, 1));
  const MetricsWriter again(run_, {}, false);
  EXPECT_EQ(jsonl(), "");
  EXPECT_EQ(csv(), kHeader);
}

TEST_F(Metrics, GoesOnBehindTheLastWholeLineAfterAResume) {
  MetricsWriter(run_, {}, false).write(train_line(1, 1.5));
  const std::string whole_jsonl = jsonl();
  const std::string whole_csv = csv();
  add_to("metrics.jsonl", "{\"kind\":\"train\",\"st");
  add_to("metrics.csv", "2,1.4");
  MetricsWriter writer(run_, 1, false);
  EXPECT_EQ(jsonl(), whole_jsonl);
  EXPECT_EQ(csv(), whole_csv);
  writer.write(train_line(2, 1.25));
  EXPECT_EQ(csv(), whole_csv + "2,1.25,,,,,200,,,,,,,,,,,\n");
  EXPECT_TRUE(jsonl().starts_with(whole_jsonl + "{\"kind\":\"train\",\"step\":2,"));
}

TEST_F(Metrics, WritesTheHeaderThatAKillPrevented) {
  make_folders(run_);
  add_to("metrics.csv", "step,lo");
  const MetricsWriter writer(run_, 0, false);
  EXPECT_EQ(csv(), kHeader);
}

TEST_F(Metrics, RefusesToContinueATableWithOtherColumns) {
  make_folders(run_);
  add_to("metrics.csv", "step,loss\n1,2\n");
  const std::string message =
      test::error_of<DataError>([&] { const MetricsWriter writer(run_, 1, false); });
  EXPECT_NE(message.find("metrics.csv: its columns are not step,loss,perplexity"),
            std::string::npos);
  EXPECT_EQ(csv(), "step,loss\n1,2\n");
}

TEST_F(Metrics, ReportsAFullDisk) {
  // A limit on the size of files stands for the full disk.
  const pid_t child = ::fork();
  if (child == 0) {
    int status = 0;
    try {
      std::signal(SIGXFSZ, SIG_IGN);
      const rlimit limit{1000, 1000};
      ::setrlimit(RLIMIT_FSIZE, &limit);
      MetricsWriter writer(run_, {}, false);
      for (int64_t step = 1; step < 100; ++step) writer.write(train_line(step, 1));
    } catch (const DataError& error) {
      status =
          std::string_view(error.what()).find("cannot be written") != std::string::npos ? 7 : 8;
    }
    ::_exit(status);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  EXPECT_EQ(WEXITSTATUS(status), 7);
  const MetricsWriter resumed(run_, 5, false);
  EXPECT_TRUE(jsonl().ends_with("}\n"));
}

TEST_F(Metrics, SendsNumbersOfTrainValidAndMoeLinesToTensorboard) {
  MetricsWriter writer(run_, {}, true);
  writer.write(MetricLine("run", 0).set("parameters", 5));
  writer.write(train_line(1, 3.5)
                   .set("tokens_per_s", 10.0)
                   .set("time_data_s", 0.5)
                   .set("text", "no number"));
  writer.write(MetricLine("moe", 1)
                   .set("layer", 2)
                   .set("load_cv", 0.5)
                   .set("tokens_per_expert", std::vector<int64_t>{1, 2}));
  writer.write(
      MetricLine("valid", 1).set("by_domain", MetricObject{{"c", MetricObject{{"loss", 2.5}}}}));
  writer.write(MetricLine("end", 1).set("loss", 1.0));
  const fs::path file = fs::directory_iterator(run_ / "tensorboard")->path();
  const std::string events = read_file(file);
  for (const char* tag :
       {"train/loss", "train/tokens", "speed/tokens_per_s", "speed/time_data_s",
        "moe_load_cv/layer_02", "moe_tokens_per_expert/layer_02", "valid_loss_by_domain/c"}) {
    EXPECT_NE(events.find(tag), std::string::npos) << tag;
  }
  for (const char* tag : {"run/", "end/", "train/text", "train/time_data_s", "moe_layer"}) {
    EXPECT_EQ(events.find(tag), std::string::npos) << tag;
  }
}

TEST_F(Metrics, GroupsTheExchangesByQuantityWithACardForEachLayer) {
  MetricsWriter writer(run_, {}, true);
  for (const int64_t layer : {1, 12}) {
    writer.write(MetricLine("exchange", 5)
                     .set("layer", layer)
                     .set("type", "dedup")
                     .set("chunks", 4)
                     .set("dispatch_inter_bytes", 4096.0)
                     .set("exposed_s", 0.25)
                     .set("rank_bytes", std::vector<std::vector<double>>{{0, 1}, {1, 0}}));
  }
  const std::string events = read_file(fs::directory_iterator(run_ / "tensorboard")->path());
  for (const char* tag :
       {"exchange_dispatch_inter_bytes/layer_01", "exchange_dispatch_inter_bytes/layer_12",
        "exchange_exposed_s/layer_01", "exchange_exposed_s/layer_12"}) {
    EXPECT_NE(events.find(tag), std::string::npos) << tag;
  }
  for (const char* tag :
       {"exchange/", "exchange_layer", "exchange_type", "exchange_chunks", "exchange_rank_bytes"}) {
    EXPECT_EQ(events.find(tag), std::string::npos) << tag;
  }
}

}  // namespace
}  // namespace locus::train
