#include "locus/train/append_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "locus/base/error.h"
#include "locus/base/file.h"

namespace locus::train {
namespace {

// Bytes up to and with the last line end; a file that is not there has none.
uint64_t whole_lines_bytes(const std::filesystem::path& path) {
  if (!std::filesystem::exists(path)) return 0;
  const MappedFile file(path);
  const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()),
                              file.bytes().size());
  return text.rfind('\n') + 1;  // npos + 1 is 0
}

}  // namespace

AppendFile::AppendFile(std::filesystem::path path, Mode mode) : path_(std::move(path)) {
  const uint64_t keep = mode == Mode::kNew ? 0 : whole_lines_bytes(path_);
  descriptor_ = ::open(path_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (descriptor_ < 0) {
    throw DataError("{}: cannot be opened: {}", path_.string(), std::strerror(errno));
  }
  if (::ftruncate(descriptor_, static_cast<off_t>(keep)) != 0) {
    const int code = errno;
    ::close(descriptor_);
    throw DataError("{}: cannot be cut to {} bytes: {}", path_.string(), keep, std::strerror(code));
  }
  empty_ = keep == 0;
}

AppendFile::~AppendFile() { ::close(descriptor_); }

void AppendFile::append(std::string_view piece) {
  while (!piece.empty()) {
    const ssize_t written = ::write(descriptor_, piece.data(), piece.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      throw DataError("{}: cannot be written: {}", path_.string(), std::strerror(errno));
    }
    piece.remove_prefix(static_cast<size_t>(written));
    empty_ = false;
  }
}

}  // namespace locus::train
