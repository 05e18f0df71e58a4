// The bytes of a file, unpacked on the way when its name ends in .gz or .zst.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>

namespace locus::data {

class ByteStream {
 public:
  virtual ~ByteStream() = default;
  // Fills `buffer` as far as the stream goes: fewer than `size` bytes only at its end. DataError
  // when the file cannot be read, or its packed content is broken or ends too early.
  virtual size_t read(char* buffer, size_t size) = 0;
  // Bytes taken from the file so far, packed ones if it is packed: for progress.
  virtual int64_t file_bytes() const = 0;
};

// DataError when the file cannot be opened. Memory: a constant buffer, and for zstd its window of
// at most 128 MiB. Files of several gzip members or zstd frames are read to their end.
std::unique_ptr<ByteStream> open_byte_stream(const std::filesystem::path& path);

// The name without .gz or .zst: what the content is.
std::filesystem::path unpacked_name(const std::filesystem::path& path);

}  // namespace locus::data
