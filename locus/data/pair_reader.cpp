#include "locus/data/pair_reader.h"

#include <algorithm>
#include <string_view>

#include "locus/base/error.h"
#include "locus/data/utf8.h"

namespace locus::data {
namespace {

constexpr size_t kReadBytes = size_t{1} << 16;

constexpr std::string_view kByteOrderMark = "\xef\xbb\xbf";

}  // namespace

LineReader::LineReader(const std::string& path) : path_(path), stream_(open_byte_stream(path)) {}

bool LineReader::take_line(std::string* line) {
  const size_t end = buffer_.find('\n', std::max(begin_, searched_));
  searched_ = buffer_.size();
  if (end == std::string::npos && !is_at_end_) return false;
  if (end == std::string::npos && begin_ == buffer_.size()) return false;
  *line = buffer_.substr(begin_, end == std::string::npos ? end : end - begin_);
  begin_ = searched_ = end == std::string::npos ? buffer_.size() : end + 1;
  return true;
}

bool LineReader::next(std::string* line) {
  while (!take_line(line)) {
    if (is_at_end_) return false;
    if (buffer_.size() - begin_ > kMaxLineBytes) {
      throw DataError("{}: line {} has more than {} bytes", path_, num_lines_ + 1, kMaxLineBytes);
    }
    buffer_.erase(0, begin_);
    searched_ -= begin_;
    begin_ = 0;
    const size_t before = buffer_.size();
    buffer_.resize(before + kReadBytes);
    const size_t num_read = stream_->read(buffer_.data() + before, kReadBytes);
    buffer_.resize(before + num_read);
    is_at_end_ = num_read < kReadBytes;
  }
  if (++num_lines_ == 1 && line->starts_with(kByteOrderMark)) line->erase(0, kByteOrderMark.size());
  if (line->ends_with('\r')) line->pop_back();
  if (valid_utf8_prefix(*line) != line->size()) {
    throw DataError("{}: line {} is not valid UTF-8", path_, num_lines_);
  }
  return true;
}

PairReader::PairReader(const std::string& source, const std::string& target)
    : source_path_(source), target_path_(target), source_(source), target_(target) {}

bool PairReader::next(TextPair* pair) {
  while (true) {
    const bool has_source = source_.next(&pair->source);
    const bool has_target = target_.next(&pair->target);
    if (has_source != has_target) {
      throw DataError(
          "{} ends after {} lines, but {} goes on: line n of one is the translation of line n of "
          "the other",
          has_source ? target_path_ : source_path_,
          has_source ? target_.num_lines() : source_.num_lines(),
          has_source ? source_path_ : target_path_);
    }
    if (!has_source) return false;
    if (!is_blank(pair->source) && !is_blank(pair->target)) return true;
    ++num_blank_;
  }
}

}  // namespace locus::data
