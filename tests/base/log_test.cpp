#include "locus/base/log.h"

#include <gtest/gtest.h>

#include "locus/base/error.h"
#include "locus/base/file.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_folder.h"

namespace locus {
namespace {

class Log : public ::testing::Test {
 protected:
  void TearDown() override {
    log::close_file();
    log::set_level(log::Level::kInfo);
  }
};

TEST_F(Log, ParsesItsLevelsAndNamesThemInTheError) {
  EXPECT_EQ(log::parse_level("debug"), log::Level::kDebug);
  EXPECT_EQ(log::parse_level("info"), log::Level::kInfo);
  EXPECT_EQ(log::parse_level("warning"), log::Level::kWarning);
  EXPECT_EQ(log::parse_level("error"), log::Level::kError);
  EXPECT_EQ(log::parse_level("off"), log::Level::kOff);
  EXPECT_EQ(test::error_of<ConfigError>([] { log::parse_level("loud"); }),
            "log level \"loud\" is not known; one of debug, info, warning, error, off");
}

TEST_F(Log, WritesLinesOfItsLevelAndAboveToTheFile) {
  const test::TempFolder folder;
  testing::internal::CaptureStderr();
  log::open_file((folder / "log.txt").string());
  log::debug("below {}", "info");
  log::info("loaded {} tokens", 7);
  log::set_level(log::Level::kError);
  log::warning("below error");
  log::error("a {{}} brace and {}", "an argument with {braces}");
  log::set_level(log::Level::kOff);
  log::error("off");
  log::close_file();
  const std::string errors = testing::internal::GetCapturedStderr();
  const std::string text = read_file(folder / "log.txt");
  EXPECT_NE(text.find("info: loaded 7 tokens\n"), std::string::npos);
  EXPECT_NE(text.find("error: a {} brace and an argument with {braces}\n"), std::string::npos);
  EXPECT_EQ(text.find("below"), std::string::npos);
  EXPECT_EQ(text.find("off"), std::string::npos);
  EXPECT_NE(errors.find("info: loaded 7 tokens\n"), std::string::npos);
}

TEST_F(Log, WritesNoMoreToAClosedFileAndAppendsToAnOldOne) {
  const test::TempFolder folder;
  const std::string path = (folder / "log.txt").string();
  testing::internal::CaptureStderr();
  log::open_file(path);
  log::info("first");
  log::close_file();
  log::info("unseen");
  log::open_file(path);
  log::info("second");
  log::close_file();
  testing::internal::GetCapturedStderr();
  const std::string text = read_file(path);
  EXPECT_NE(text.find("first"), std::string::npos);
  EXPECT_NE(text.find("second"), std::string::npos);
  EXPECT_EQ(text.find("unseen"), std::string::npos);
}

TEST_F(Log, ReportsAFileThatCannotBeOpened) {
  const test::TempFolder folder;
  write_file_atomic(folder / "file", "x");
  const std::string path = (folder / "file/log.txt").string();
  EXPECT_NE(test::error_of<DataError>([&] { log::open_file(path); }).find(path), std::string::npos);
}

}  // namespace
}  // namespace locus
