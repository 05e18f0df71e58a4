#include "locus/data/pending_folder.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
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
  fs::create_directory(root / "data.tmp-5");  // killed before it had its lock
  const auto living = FileLock::try_acquire(root / "data.tmp-2/.lock");
  ASSERT_NE(living, nullptr);
  // Alike, but none of ours.
  write_text(root / "data.tmp-2024-backup/.lock", "");
  write_text(root / "data.tmp-3/notes", "");
  write_text(root / "data2.tmp-4/.lock", "");
  const PendingFolder folder(root / "data");
  EXPECT_FALSE(fs::exists(root / "data.tmp-1"));
  EXPECT_FALSE(fs::exists(root / "data.tmp-5"));
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

TEST(PendingFolder, RemovesAReplacementThatWasNotFinishedButNotOneInWork) {
  const TempFolder root;
  write_text(root / "data/file", "old");
  write_text(root / "data.tmp-1.replaced/.lock", "1\n");
  write_text(root / "data.tmp-2.replaced/.lock", "2\n");
  const auto living = FileLock::try_acquire(root / "data.tmp-2.replaced/.lock");
  ASSERT_NE(living, nullptr);
  { const PendingFolder folder(root / "data"); }
  EXPECT_FALSE(fs::exists(root / "data.tmp-1.replaced"));
  EXPECT_TRUE(fs::exists(root / "data.tmp-2.replaced"));
  EXPECT_EQ(read_file(root / "data/file"), "old");
}

// Replaces the folder until it is killed. `begun` gets a byte for each folder.
[[noreturn]] void replace_for_ever(const fs::path& target, int begun) noexcept {
  for (int i = 0;; ++i) {
    PendingFolder folder(target);
    if (::write(begun, "x", 1) != 1) ::_exit(1);
    write_text(folder.path() / "a", std::to_string(i));
    write_text(folder.path() / "b", std::to_string(i));
    folder.commit();
  }
}

TEST(PendingFolder, IsWholeAndLeavesNothingBesideAfterAKillAtAnyMoment) {
  const TempFolder root;
  const fs::path target = root / "data";
  write_text(target / "a", "first");
  write_text(target / "b", "first");
  for (int i = 0; i < 40; ++i) {
    int begun[2];
    ASSERT_EQ(::pipe(begun), 0);
    const pid_t child = ::fork();
    if (child == 0) replace_for_ever(target, begun[1]);
    char byte = 0;
    ASSERT_EQ(::read(begun[0], &byte, 1), 1);
    ::usleep(static_cast<useconds_t>(i * 137));
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    ::close(begun[0]);
    ::close(begun[1]);
    { const PendingFolder next(target); }
    EXPECT_EQ(read_file(target / "a"), read_file(target / "b"));
    for (const auto& entry : fs::directory_iterator(root.path())) {
      EXPECT_EQ(entry.path(), target) << "kill " << i << " left it behind";
    }
  }
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
