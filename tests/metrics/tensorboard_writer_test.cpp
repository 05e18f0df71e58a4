#include "locus/train/tensorboard_writer.h"

#include <gtest/gtest.h>

#include "locus/base/file.h"
#include "tests/support/python.h"
#include "tests/support/temp_folder.h"

namespace locus::train {
namespace {

std::string bytes(std::initializer_list<int> values) {
  std::string text;
  for (const int value : values) text += static_cast<char>(value);
  return text;
}

TEST(Crc32c, GivesTheVectorsOfRfc3720) {
  EXPECT_EQ(crc32c(""), 0u);
  EXPECT_EQ(crc32c("123456789"), 0xe3069283u);
  EXPECT_EQ(crc32c(std::string(32, '\0')), 0x8a9136aau);
  EXPECT_EQ(crc32c(std::string(32, '\xff')), 0x62a8ab43u);
  std::string rising;
  for (int i = 0; i < 32; ++i) rising += static_cast<char>(i);
  EXPECT_EQ(crc32c(rising), 0x46dd794eu);
  EXPECT_EQ(crc32c(std::string(rising.rbegin(), rising.rend())), 0x113fdb5cu);
}

TEST(TensorboardWriter, FramesARecordWithMaskedChecksums) {
  const std::string record = frame_record(encode_file_version(0));
  // What every event file begins with: 24 bytes of payload and the checksum of that number.
  EXPECT_EQ(record.substr(0, 12), bytes({24, 0, 0, 0, 0, 0, 0, 0, 0xa3, 0x7f, 0x4b, 0x22}));
  EXPECT_EQ(record.size(), 8U + 4 + 24 + 4);
}

TEST(TensorboardWriter, EncodesTheFileVersion) {
  EXPECT_EQ(encode_file_version(1.0),
            bytes({0x09, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f, 0x1a, 13}) + "brain.Event:2");
}

TEST(TensorboardWriter, EncodesAScalar) {
  const std::vector<TensorboardScalar> scalars = {{"a/b", 1.5}};
  EXPECT_EQ(encode_summary(1.0, 300, scalars, {}),
            bytes({0x09, 0,    0,    0,    0,   0,   0,   0xf0, 0x3f,  // wall_time
                   0x10, 0xac, 0x02,                                   // step: 300 as varint
                   0x2a, 12,                                           // summary
                   0x0a, 10,   0x0a, 3,    'a', '/', 'b',              // value, tag
                   0x15, 0,    0,    0xc0, 0x3f}));                    // simple_value
}

TEST(TensorboardWriter, EncodesTheStartOfASession) {
  EXPECT_EQ(encode_session_start(1.0, 5),
            bytes({0x09, 0, 0, 0, 0, 0, 0, 0xf0, 0x3f, 0x10, 5, 0x3a, 2, 0x08, 1}));
}

TEST(TensorboardWriter, OpensANewFileForEachStart) {
  const test::TempFolder folder;
  const TensorboardWriter first(folder / "tb", {});
  const TensorboardWriter second(folder / "tb", 3);
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder / "tb")) files.push_back(entry.path());
  ASSERT_EQ(files.size(), 2U);
  for (const fs::path& file : files) {
    EXPECT_EQ(file.filename().string().find("events.out.tfevents."), 0U);
  }
}

TEST(TensorboardWriter, IsReadByTensorboardItself) {
  if (!test::python_has("tensorboard.backend.event_processing.event_accumulator")) {
    GTEST_SKIP() << "the Python package tensorboard is not there";
  }
  const test::TempFolder folder;
  const auto write_steps = [&](std::optional<int64_t> resumed, int64_t first, int64_t last,
                               double offset) {
    TensorboardWriter writer(folder.path(), resumed);
    for (int64_t step = first; step <= last; ++step) {
      const std::vector<TensorboardScalar> scalars = {
          {"train/loss", static_cast<double>(step) + offset}, {"moe/layer_0/load_cv", 0.25}};
      const std::vector<TensorboardHistogram> histograms = {
          {"moe/layer_0/tokens_per_expert", {3, 0, 5}}};
      writer.write(step, scalars, histograms);
    }
  };
  write_steps({}, 1, 6, 0.0);
  write_steps(4, 5, 8, 0.5);  // killed after 6, resumed at 4
  const std::string output = test::run_python(R"(
import glob, logging, sys
logging.disable(logging.CRITICAL)
from tensorboard.backend.event_processing import event_accumulator, event_file_loader
events = event_accumulator.EventAccumulator(sys.argv[1])
events.Reload()
print([(e.step, e.value) for e in events.Scalars("train/loss")])
print(events.Scalars("moe/layer_0/load_cv")[0].value)
h = events.Histograms("moe/layer_0/tokens_per_expert")[0].histogram_value
print(h.min, h.max, h.num, h.sum, list(h.bucket_limit), list(h.bucket))
first = sorted(glob.glob(sys.argv[1] + "/*"))[0]
raw = list(event_file_loader.EventFileLoader(first).Load())
print(raw[0].file_version, len(raw), raw[1].step, raw[1].summary.value[0].tag)
)",
                                              folder.path().string());
  EXPECT_EQ(output,
            "[(1, 1.0), (2, 2.0), (3, 3.0), (4, 4.0), (5, 5.5), (6, 6.5), (7, 7.5), (8, 8.5)]\n"
            "0.25\n"
            "0.0 3.0 8.0 14.0 [1.0, 2.0, 3.0] [3.0, 0.0, 5.0]\n"
            "brain.Event:2 7 1 train/loss\n");
}

}  // namespace
}  // namespace locus::train
