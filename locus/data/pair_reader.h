// Reads parallel text: line n of one file is the translation of line n of the other.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "locus/data/byte_stream.h"

namespace locus::data {

struct TextPair {
  std::string source, target;  // valid UTF-8, not blank, without the line's end
};

// The lines of a file (.gz and .zst unpacked), without "\n" or "\r\n", nor a byte order mark at the
// beginning.
class LineReader {
 public:
  static constexpr size_t kMaxLineBytes = size_t{1} << 20;

  explicit LineReader(const std::string& path);
  // False at the end. DataError for a line that is not UTF-8, or longer than kMaxLineBytes.
  bool next(std::string* line);
  int64_t num_lines() const { return num_lines_; }
  int64_t file_bytes() const { return stream_->file_bytes(); }

 private:
  bool take_line(std::string* line);

  std::string path_;
  std::unique_ptr<ByteStream> stream_;
  std::string buffer_;   // what has been read of the file and not handed out
  size_t begin_ = 0;     // in it
  size_t searched_ = 0;  // up to here it has no line's end behind begin_
  bool is_at_end_ = false;
  int64_t num_lines_ = 0;
};

class PairReader {
 public:
  PairReader(const std::string& source, const std::string& target);
  // False behind the last pair. Pairs with a blank side are passed over. DataError where the files
  // have different numbers of lines.
  bool next(TextPair* pair);
  int64_t num_blank() const { return num_blank_; }
  int64_t file_bytes() const { return source_.file_bytes() + target_.file_bytes(); }

 private:
  std::string source_path_, target_path_;
  LineReader source_, target_;
  int64_t num_blank_ = 0;
};

}  // namespace locus::data
