#include "locus/base/file.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "locus/base/error.h"

namespace locus {
namespace {

constexpr size_t kBufferBytes = size_t{1} << 20;

[[noreturn]] void fail(const fs::path& path, std::string_view what, int code = errno) {
  throw DataError("{}: {}: {}", path.string(), what, std::strerror(code));
}

void write_fully(int descriptor, const char* data, size_t num_bytes, const fs::path& path) {
  while (num_bytes > 0) {
    const ssize_t written = ::write(descriptor, data, num_bytes);
    if (written < 0) {
      if (errno == EINTR) continue;
      fail(path, "cannot be written");
    }
    data += written;
    num_bytes -= static_cast<size_t>(written);
  }
}

}  // namespace

std::string read_file(const fs::path& path) {
  const MappedFile file(path);
  const auto bytes = file.bytes();
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

void sync_path(const fs::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) fail(path, "cannot be opened");
  const int result = ::fsync(descriptor);
  const int code = errno;
  ::close(descriptor);
  if (result != 0) fail(path, "cannot be flushed to disk", code);
}

void rename_durable(const fs::path& from, const fs::path& to) {
  if (std::rename(from.c_str(), to.c_str()) != 0)
    fail(to, "cannot be renamed from " + from.string());
  sync_path(to.parent_path().empty() ? fs::path(".") : to.parent_path());
}

void make_folders(const fs::path& path) {
  std::error_code code;
  fs::create_directories(path, code);
  if (code) throw DataError("{}: the folder cannot be made: {}", path.string(), code.message());
}

void write_file_atomic(const fs::path& path, std::string_view content) {
  // Renaming would put a file in the place of a device, or of a link instead of what it names.
  fs::path target = path;
  std::error_code code;
  if (fs::exists(path, code)) {
    if (!fs::is_regular_file(path, code)) {
      throw DataError("{}: is there and is not a regular file", path.string());
    }
    if (fs::is_symlink(path, code)) target = fs::canonical(path);
  }
  fs::path temporary = target;
  temporary += ".tmp" + std::to_string(::getpid());
  try {
    FileWriter writer(temporary);
    writer.write(content);
    writer.close();
    rename_durable(temporary, target);
  } catch (...) {
    std::error_code ignored;
    fs::remove(temporary, ignored);
    throw;
  }
}

FileWriter::FileWriter(fs::path path) : path_(std::move(path)) {
  descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (descriptor_ < 0) fail(path_, "cannot be created");
  buffer_.reserve(kBufferBytes);
}

FileWriter::~FileWriter() {
  if (descriptor_ >= 0) ::close(descriptor_);
}

void FileWriter::write(const void* data, size_t num_bytes) {
  LOCUS_CHECK(descriptor_ >= 0, "write after close");
  if (buffer_.size() + num_bytes > kBufferBytes) flush();
  if (num_bytes > kBufferBytes) {
    write_fully(descriptor_, static_cast<const char*>(data), num_bytes, path_);
  } else {
    buffer_.append(static_cast<const char*>(data), num_bytes);
  }
  num_bytes_ += num_bytes;
  start_writing_back();
}

void FileWriter::flush() {
  write_fully(descriptor_, buffer_.data(), buffer_.size(), path_);
  buffer_.clear();
}

// Has the disk begin with what is complete: else it starts only at fsync, which then waits for all.
void FileWriter::start_writing_back() {
  constexpr uint64_t kStep = 32 << 20;
  const uint64_t complete = num_bytes_ - buffer_.size();
  if (complete < started_bytes_ + kStep) return;
  // Only a hint: fsync in close() reports what fails.
  ::sync_file_range(descriptor_, static_cast<off64_t>(started_bytes_),
                    static_cast<off64_t>(complete - started_bytes_), SYNC_FILE_RANGE_WRITE);
  started_bytes_ = complete;
}

void FileWriter::close() {
  flush();
  if (::fsync(descriptor_) != 0) fail(path_, "cannot be flushed to disk");
  const int result = ::close(descriptor_);
  descriptor_ = -1;
  if (result != 0) fail(path_, "cannot be closed");
}

void map_pages(std::span<const std::byte> bytes) {
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(bytes.data()) / page * page;
  const auto end = reinterpret_cast<uintptr_t>(bytes.data()) + bytes.size();
  // Only a hint: older kernels do not know it, and the pages come one by one.
  ::madvise(reinterpret_cast<void*>(begin), end - begin, MADV_POPULATE_READ);
}

MappedFile::MappedFile(fs::path path) : path_(std::move(path)) {
  const int descriptor =
      ::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a FIFO must not block
  if (descriptor < 0) fail(path_, "cannot be opened");
  struct stat info {};
  if (::fstat(descriptor, &info) != 0) {
    const int code = errno;
    ::close(descriptor);
    fail(path_, "cannot be read", code);
  }
  if (!S_ISREG(info.st_mode)) {
    ::close(descriptor);
    throw DataError("{}: is not a regular file", path_.string());
  }
  size_ = static_cast<size_t>(info.st_size);
  if (size_ > 0) {
    void* address = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, descriptor, 0);
    const int code = errno;
    if (address == MAP_FAILED) {
      ::close(descriptor);
      fail(path_, "cannot be mapped", code);
    }
    data_ = static_cast<const std::byte*>(address);
  }
  ::close(descriptor);
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_);
}

std::unique_ptr<FileLock> FileLock::try_acquire(const fs::path& path) {
  const int descriptor = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (descriptor < 0) fail(path, "cannot be opened for locking");
  if (::flock(descriptor, LOCK_EX | LOCK_NB) != 0) {
    const int code = errno;
    ::close(descriptor);
    if (code == EWOULDBLOCK) return nullptr;
    fail(path, "cannot be locked", code);
  }
  std::unique_ptr<FileLock> lock(new FileLock(descriptor));  // closes it should writing fail
  const std::string holder = std::to_string(::getpid()) + "\n";
  if (::ftruncate(descriptor, 0) != 0) fail(path, "cannot be truncated");
  write_fully(descriptor, holder.data(), holder.size(), path);
  return lock;
}

FileLock::~FileLock() { ::close(descriptor_); }

}  // namespace locus
