// Files: whole reads, atomic and durable writes, memory maps, locks. Every failure is a DataError
// that names the path and the system's reason.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace locus {

namespace fs = std::filesystem;

std::string read_file(const fs::path& path);

// Writes to a temporary name beside `path`, fsyncs, renames: a reader sees the old or the new
// content.
void write_file_atomic(const fs::path& path, std::string_view content);

// Flushes file contents, or a folder's entries, to the disk.
void sync_path(const fs::path& path);

// Renames and makes the rename durable.
void rename_durable(const fs::path& from, const fs::path& to);

// mkdir -p with a DataError instead of filesystem_error.
void make_folders(const fs::path& path);

// Sequential writer that reports every short write (a full disk) as DataError.
class FileWriter {
 public:
  explicit FileWriter(fs::path path);
  ~FileWriter();
  FileWriter(const FileWriter&) = delete;
  FileWriter& operator=(const FileWriter&) = delete;

  void write(const void* data, size_t num_bytes);
  void write(std::string_view text) { write(text.data(), text.size()); }
  // Flush, fsync, close. Without it the destructor closes and ignores errors: call it.
  void close();
  uint64_t num_bytes() const { return num_bytes_; }

 private:
  fs::path path_;
  int descriptor_ = -1;
  std::string buffer_;
  uint64_t num_bytes_ = 0;
  uint64_t started_bytes_ = 0;  // that the disk was told to write
  void flush();
  void start_writing_back();
};

// A read-only memory map of a whole file. Empty files map to an empty span.
class MappedFile {
 public:
  explicit MappedFile(fs::path path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return {data_, size_}; }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// Maps the pages of a part of a mapped file at once, before it is read from front to back: cheaper
// than to be interrupted at each of them.
void map_pages(std::span<const std::byte> bytes);

// An exclusive advisory lock on a file, held until destruction or the end of the process.
// Writes the holder's process id into it, for the message of the next one that comes.
class FileLock {
 public:
  // Empty when another process holds it.
  static std::unique_ptr<FileLock> try_acquire(const fs::path& path);
  ~FileLock();
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  explicit FileLock(int descriptor) : descriptor_(descriptor) {}
  int descriptor_;
};

}  // namespace locus
