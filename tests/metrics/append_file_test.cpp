#include "locus/train/append_file.h"

#include <gtest/gtest.h>

#include "locus/base/error.h"
#include "locus/base/file.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_folder.h"

namespace locus::train {
namespace {

using Mode = AppendFile::Mode;

TEST(AppendFile, ShowsEachPieceAtOnce) {
  const test::TempFolder folder;
  AppendFile file(folder / "a", Mode::kNew);
  EXPECT_TRUE(file.empty());
  file.append("one\n");
  EXPECT_FALSE(file.empty());
  EXPECT_EQ(read_file(folder / "a"), "one\n");
  file.append("two\n");
  EXPECT_EQ(read_file(folder / "a"), "one\ntwo\n");
}

TEST(AppendFile, StartsEmptyWhenNew) {
  const test::TempFolder folder;
  write_file_atomic(folder / "a", "old\n");
  const AppendFile file(folder / "a", Mode::kNew);
  EXPECT_EQ(read_file(folder / "a"), "");
}

TEST(AppendFile, CutsTheHalfLineThatAKillLeft) {
  const test::TempFolder folder;
  for (const auto& [old, kept] : std::vector<std::pair<std::string, std::string>>{
           {"one\ntwo\n", "one\ntwo\n"}, {"one\ntw", "one\n"}, {"on", ""}, {"", ""}}) {
    write_file_atomic(folder / "a", old);
    AppendFile file(folder / "a", Mode::kContinueLines);
    EXPECT_EQ(file.empty(), kept.empty());
    file.append("next\n");
    EXPECT_EQ(read_file(folder / "a"), kept + "next\n");
  }
}

TEST(AppendFile, MakesTheFileThatIsToBeContinuedAndIsNotThere) {
  const test::TempFolder folder;
  AppendFile(folder / "a", Mode::kContinueLines).append("x\n");
  EXPECT_EQ(read_file(folder / "a"), "x\n");
}

TEST(AppendFile, NamesTheFileThatCannotBeOpened) {
  const test::TempFolder folder;
  const auto open = [&] { AppendFile file(folder / "no/a", Mode::kNew); };
  EXPECT_EQ(test::error_of<DataError>(open),
            (folder / "no/a").string() + ": cannot be opened: No such file or directory");
}

}  // namespace
}  // namespace locus::train
