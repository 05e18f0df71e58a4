#include "locus/data/byte_stream.h"

#include <fcntl.h>
#include <unistd.h>
#include <zlib.h>
#include <zstd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include "locus/base/error.h"

namespace locus::data {
namespace {

namespace fs = std::filesystem;

constexpr size_t kPackedBufferBytes = size_t{1} << 18;

class PlainStream final : public ByteStream {
 public:
  explicit PlainStream(fs::path path)
      : path_(std::move(path)), descriptor_(::open(path_.c_str(), O_RDONLY | O_CLOEXEC)) {
    if (descriptor_ < 0) throw DataError("{}: cannot be opened: {}", path_.string(), reason());
  }
  ~PlainStream() override { ::close(descriptor_); }
  PlainStream(const PlainStream&) = delete;
  PlainStream& operator=(const PlainStream&) = delete;

  size_t read(char* buffer, size_t size) override {
    size_t done = 0;
    while (done < size) {
      const ssize_t count = ::read(descriptor_, buffer + done, size - done);
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) throw DataError("{}: cannot be read: {}", path_.string(), reason());
      if (count == 0) break;
      done += static_cast<size_t>(count);
    }
    file_bytes_ += static_cast<int64_t>(done);
    return done;
  }
  int64_t file_bytes() const override { return file_bytes_; }

 private:
  static std::string reason() { return std::strerror(errno); }

  fs::path path_;
  int descriptor_;
  int64_t file_bytes_ = 0;
};

// What gzip and zstd share: a packed file and the part of it that waits to be unpacked.
class PackedInput {
 public:
  explicit PackedInput(const fs::path& path) : file_(path), buffer_(kPackedBufferBytes) {}

  // False at the end of the file.
  bool refill() {
    size_ = file_.read(buffer_.data(), buffer_.size());
    return size_ > 0;
  }
  char* data() { return buffer_.data(); }
  size_t size() const { return size_; }
  int64_t file_bytes() const { return file_.file_bytes(); }

 private:
  PlainStream file_;
  std::vector<char> buffer_;
  size_t size_ = 0;
};

class GzipStream final : public ByteStream {
 public:
  explicit GzipStream(const fs::path& path) : name_(path.string()), input_(path) {
    constexpr int kGzipOnly = 15 + 16;
    LOCUS_CHECK(inflateInit2(&state_, kGzipOnly) == Z_OK, "zlib does not start");
  }
  ~GzipStream() override { inflateEnd(&state_); }
  GzipStream(const GzipStream&) = delete;
  GzipStream& operator=(const GzipStream&) = delete;

  size_t read(char* buffer, size_t size) override {
    size_t done = 0;
    while (done < size && have_input()) {
      // zlib counts in 32 bits.
      const size_t room = std::min(size - done, size_t{1} << 30);
      state_.next_out = reinterpret_cast<Bytef*>(buffer + done);
      state_.avail_out = static_cast<uInt>(room);
      const int result = inflate(&state_, Z_NO_FLUSH);
      done += room - state_.avail_out;
      inside_member_ = result != Z_STREAM_END;
      if (result == Z_STREAM_END) {
        inflateReset(&state_);
      } else if (result != Z_OK && result != Z_BUF_ERROR) {
        throw DataError("{}: its gzip data is broken{}{}", name_, state_.msg == nullptr ? "" : ": ",
                        state_.msg == nullptr ? "" : state_.msg);
      }
    }
    return done;
  }
  int64_t file_bytes() const override { return input_.file_bytes(); }

 private:
  // An empty packed file lacks its header: it counts as cut off.
  bool have_input() {
    if (state_.avail_in > 0) return true;
    if (input_.refill()) {
      state_.next_in = reinterpret_cast<Bytef*>(input_.data());
      state_.avail_in = static_cast<uInt>(input_.size());
      return true;
    }
    if (inside_member_) throw DataError("{}: its gzip data ends too early (cut off?)", name_);
    return false;
  }

  std::string name_;
  PackedInput input_;
  z_stream state_{};
  bool inside_member_ = true;
};

class ZstdStream final : public ByteStream {
 public:
  explicit ZstdStream(const fs::path& path)
      : name_(path.string()), input_(path), state_(ZSTD_createDStream()) {
    LOCUS_CHECK(state_ != nullptr, "zstd does not start");
  }
  ~ZstdStream() override { ZSTD_freeDStream(state_); }
  ZstdStream(const ZstdStream&) = delete;
  ZstdStream& operator=(const ZstdStream&) = delete;

  size_t read(char* buffer, size_t size) override {
    ZSTD_outBuffer output{buffer, size, 0};
    // A full output can leave bytes inside zstd's window: they come without new input.
    while (output.pos < output.size && (pending_output_ || have_input())) {
      const size_t result = ZSTD_decompressStream(state_, &output, &packed_);
      if (ZSTD_isError(result) != 0) {
        throw DataError("{}: its zstd data is broken: {}", name_, ZSTD_getErrorName(result));
      }
      inside_frame_ = result != 0;
      pending_output_ = inside_frame_ && output.pos == output.size;
    }
    return output.pos;
  }
  int64_t file_bytes() const override { return input_.file_bytes(); }

 private:
  bool have_input() {
    if (packed_.pos < packed_.size) return true;
    if (input_.refill()) {
      packed_ = {input_.data(), input_.size(), 0};
      return true;
    }
    if (inside_frame_) throw DataError("{}: its zstd data ends too early (cut off?)", name_);
    return false;
  }

  std::string name_;
  PackedInput input_;
  ZSTD_DStream* state_;
  ZSTD_inBuffer packed_{nullptr, 0, 0};
  bool inside_frame_ = true;
  bool pending_output_ = false;
};

}  // namespace

std::unique_ptr<ByteStream> open_byte_stream(const fs::path& path) {
  if (path.extension() == ".gz") return std::make_unique<GzipStream>(path);
  if (path.extension() == ".zst") return std::make_unique<ZstdStream>(path);
  return std::make_unique<PlainStream>(path);
}

fs::path unpacked_name(const fs::path& path) {
  const fs::path extension = path.extension();
  return extension == ".gz" || extension == ".zst" ? fs::path(path).replace_extension() : path;
}

}  // namespace locus::data
