#include "locus/base/file.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <functional>

#include "locus/base/error.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_folder.h"

namespace locus {
namespace {

// Runs `body` in a child process; its exit status, 99 for an exception.
int run_in_child(const std::function<int()>& body) {
  const pid_t child = ::fork();
  if (child == 0) {
    int status = 99;
    try {
      status = body();
    } catch (const std::exception&) {
      status = 99;
    }
    ::_exit(status);
  }
  int status = 0;
  ::waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

size_t num_entries(const fs::path& folder) {
  return static_cast<size_t>(
      std::distance(fs::directory_iterator(folder), fs::directory_iterator()));
}

TEST(ReadFile, ReturnsAllBytesAndNamesAMissingFile) {
  const test::TempFolder folder;
  const std::string content("a\0b\n", 4);
  write_file_atomic(folder / "a", content);
  EXPECT_EQ(read_file(folder / "a"), content);
  EXPECT_EQ(test::error_of<DataError>([&] { read_file(folder / "b"); }),
            (folder / "b").string() + ": cannot be opened: No such file or directory");
  EXPECT_EQ(test::error_of<DataError>([&] { read_file(folder.path()); }),
            folder.path().string() + ": is not a regular file");
}

TEST(WriteFileAtomic, ReplacesTheContentAndLeavesNothingElse) {
  const test::TempFolder folder;
  write_file_atomic(folder / "a", "old");
  write_file_atomic(folder / "a", "new");
  EXPECT_EQ(read_file(folder / "a"), "new");
  EXPECT_EQ(num_entries(folder.path()), 1U);
}

TEST(WriteFileAtomic, KeepsTheOldContentWhenTheDiskRefusesTheNew) {
  const test::TempFolder folder;
  const fs::path path = folder / "a";
  write_file_atomic(path, "old");
  // A limit on the size of files stands for the full disk.
  const int status = run_in_child([&] {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{1000, 1000};
    ::setrlimit(RLIMIT_FSIZE, &limit);
    try {
      write_file_atomic(path, std::string(5000, 'x'));
    } catch (const DataError&) {
      return 7;
    }
    return 0;
  });
  EXPECT_EQ(status, 7);
  EXPECT_EQ(read_file(path), "old");
  EXPECT_EQ(num_entries(folder.path()), 1U);
}

TEST(WriteFileAtomic, RefusesATargetThatIsNoRegularFile) {
  const test::TempFolder folder;
  make_folders(folder / "taken/inside");
  for (const std::string& target : {(folder / "taken").string(), std::string("/dev/null")}) {
    const std::string message = test::error_of<DataError>([&] { write_file_atomic(target, "x"); });
    EXPECT_EQ(message, target + ": is there and is not a regular file");
  }
  EXPECT_EQ(num_entries(folder.path()), 1U);
}

TEST(WriteFileAtomic, WritesToWhatALinkNames) {
  const test::TempFolder folder;
  write_file_atomic(folder / "target", "old");
  std::filesystem::create_symlink("target", folder / "link");
  write_file_atomic(folder / "link", "new");
  EXPECT_TRUE(std::filesystem::is_symlink(folder / "link"));
  EXPECT_EQ(read_file(folder / "target"), "new");
}

TEST(WriteFileAtomic, NamesTheFolderThatIsNotThere) {
  const test::TempFolder folder;
  const std::string message =
      test::error_of<DataError>([&] { write_file_atomic(folder / "no/a", "x"); });
  EXPECT_NE(message.find("cannot be created: No such file or directory"), std::string::npos);
}

TEST(MakeFolders, MakesParentsAndReportsAFileInTheWay) {
  const test::TempFolder folder;
  make_folders(folder / "a/b/c");
  make_folders(folder / "a/b/c");
  EXPECT_TRUE(fs::is_directory(folder / "a/b/c"));
  write_file_atomic(folder / "file", "x");
  const std::string message = test::error_of<DataError>([&] { make_folders(folder / "file/sub"); });
  EXPECT_NE(message.find("the folder cannot be made"), std::string::npos);
}

TEST(FileWriter, WritesSmallAndLargePiecesInOrder) {
  const test::TempFolder folder;
  std::string expected;
  FileWriter writer(folder / "a");
  for (const size_t size : {1UL, 700000UL, 3UL, 3000000UL, 1048576UL, 2UL}) {
    const std::string piece(size, static_cast<char>('a' + expected.size() % 26));
    writer.write(piece);
    expected += piece;
  }
  writer.close();
  EXPECT_EQ(writer.num_bytes(), expected.size());
  EXPECT_EQ(read_file(folder / "a"), expected);
}

TEST(FileWriter, ReportsAFullDisk) {
  FileWriter small("/dev/full");
  small.write("x");
  EXPECT_EQ(test::error_of<DataError>([&] { small.close(); }),
            "/dev/full: cannot be written: No space left on device");
  FileWriter large("/dev/full");
  EXPECT_THROW(large.write(std::string(3000000, 'x')), DataError);
}

TEST(MappedFile, MapsContentAndAnEmptyFile) {
  const test::TempFolder folder;
  write_file_atomic(folder / "empty", "");
  write_file_atomic(folder / "a", "abc");
  const MappedFile empty(folder / "empty");
  const MappedFile full(folder / "a");
  EXPECT_TRUE(empty.bytes().empty());
  ASSERT_EQ(full.bytes().size(), 3U);
  EXPECT_EQ(full.bytes()[1], std::byte{'b'});
  EXPECT_EQ(full.path(), folder / "a");
}

TEST(FileLock, ExcludesAnotherProcessUntilReleased) {
  const test::TempFolder folder;
  const fs::path path = folder / "lock";
  const auto acquires = [&] { return FileLock::try_acquire(path) != nullptr ? 1 : 0; };
  auto lock = FileLock::try_acquire(path);
  ASSERT_NE(lock, nullptr);
  EXPECT_EQ(read_file(path), std::to_string(::getpid()) + "\n");
  EXPECT_EQ(run_in_child(acquires), 0);
  EXPECT_EQ(FileLock::try_acquire(path), nullptr);
  lock.reset();
  EXPECT_EQ(run_in_child(acquires), 1);
}

TEST(FileLock, IsFreeAfterItsHolderWasKilled) {
  const test::TempFolder folder;
  const fs::path path = folder / "lock";
  EXPECT_EQ(run_in_child([&] {
              const auto lock = FileLock::try_acquire(path);
              return std::raise(SIGKILL);
            }),
            -1);
  EXPECT_NE(FileLock::try_acquire(path), nullptr);
}

TEST(FileLock, IsFreeAfterItsHolderCouldNotBeWritten) {
  const test::TempFolder folder;
  const fs::path path = folder / "lock";
  const int status = run_in_child([&] {
    std::signal(SIGXFSZ, SIG_IGN);
    rlimit limit{};
    ::getrlimit(RLIMIT_FSIZE, &limit);
    const rlimit none{0, limit.rlim_max};
    ::setrlimit(RLIMIT_FSIZE, &none);
    try {
      FileLock::try_acquire(path);
      return 1;
    } catch (const DataError&) {
      ::setrlimit(RLIMIT_FSIZE, &limit);
    }
    return FileLock::try_acquire(path) == nullptr ? 2 : 0;
  });
  EXPECT_EQ(status, 0);
}

TEST(FileLock, ReportsAFolderThatIsNotThere) {
  const test::TempFolder folder;
  EXPECT_THROW(FileLock::try_acquire(folder / "no/lock"), DataError);
}

}  // namespace
}  // namespace locus
