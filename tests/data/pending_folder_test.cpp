#include "locus/data/pending_folder.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <string>

#include "locus/base/error.h"
#include "tests/data/text_files.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_folder.h"

namespace locus::data {
namespace {

using test::error_of;
using test::TempFolder;
using test::write_text;

int64_t num_entries(const fs::path& folder) {
  return std::distance(fs::directory_iterator(folder), fs::directory_iterator());
}

TEST(PendingFolder, AppearsWhenItIsCommitted) {
  const TempFolder root;
  const fs::path target = root / "deep/data";
  PendingFolder folder(target / "");  // with a slash at the end
  write_text(folder.path() / "file", "content");
  EXPECT_FALSE(fs::exists(target));
  folder.commit();
  EXPECT_EQ(read_file(target / "file"), "content");
  EXPECT_EQ(num_entries(target), 1) << "no lock is left";
  EXPECT_EQ(num_entries(root / "deep"), 1);
}

TEST(PendingFolder, LeavesNothingWhenItIsNotCommitted) {
  const TempFolder root;
  {
    const PendingFolder folder(root / "data");
    write_text(folder.path() / "file", "content");
  }
  EXPECT_EQ(num_entries(root.path()), 0);
}

TEST(PendingFolder, ReplacesWhatWasThere) {
  const TempFolder root;
  write_text(root / "data/old", "old");
  PendingFolder folder(root / "data");
  write_text(folder.path() / "new", "new");
  EXPECT_TRUE(fs::exists(root / "data/old"));
  folder.commit();
  EXPECT_EQ(num_entries(root / "data"), 1);
  EXPECT_EQ(num_entries(root.path()), 1);
}

TEST(PendingFolder, CleansUpBehindTheDeadButNotBehindTheLiving) {
  const TempFolder root;
  write_text(root / "data.tmp-1/.lock", "1\n");
  write_text(root / "data.tmp-1/train.bin", "half");
  write_text(root / "data.tmp-2/.lock", "2\n");
  const auto living = FileLock::try_acquire(root / "data.tmp-2/.lock");
  ASSERT_NE(living, nullptr);
  // Alike, but none of ours.
  write_text(root / "data.tmp-2024-backup/.lock", "");
  write_text(root / "data.tmp-3/notes", "");
  write_text(root / "data2.tmp-4/.lock", "");
  const PendingFolder folder(root / "data");
  EXPECT_FALSE(fs::exists(root / "data.tmp-1"));
  for (const char* name : {"data.tmp-2", "data.tmp-2024-backup", "data.tmp-3", "data2.tmp-4"}) {
    EXPECT_TRUE(fs::exists(root / name)) << name;
  }
}

TEST(PendingFolder, BringsBackWhatADeadProcessHadPutAside) {
  const TempFolder root;
  write_text(root / "data.tmp-1.replaced/file", "old");
  { const PendingFolder folder(root / "data"); }
  EXPECT_EQ(read_file(root / "data/file"), "old");
  write_text(root / "data.tmp-2.replaced/file", "older");
  { const PendingFolder folder(root / "data"); }
  EXPECT_EQ(read_file(root / "data/file"), "old");
  EXPECT_EQ(num_entries(root.path()), 1);
}

TEST(PendingFolder, NamesThePlaceThatCannotBeWritten) {
  const TempFolder root;
  write_text(root / "file", "no folder");
  EXPECT_NE(error_of<DataError>([&] { PendingFolder(root / "file/data"); }).find("file"),
            std::string::npos);
  EXPECT_THROW(PendingFolder("/proc/data"), DataError);
}

}  // namespace
}  // namespace locus::data
