#include "locus/eval/text_stream.h"

#include <algorithm>
#include <utility>

#include "locus/base/error.h"
#include "locus/data/utf8.h"

namespace locus::eval {
namespace {

constexpr std::string_view kReplacement = "\xef\xbf\xbd";  // U+FFFD

// True if more bytes can make a character of `bytes`, which is none and not empty.
bool is_beginning(std::string_view bytes) {
  const auto lead = static_cast<unsigned char>(bytes.front());
  const size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (bytes.size() >= length) return false;
  // The lowest and the highest continuation: one of them is right after every lead byte.
  for (const char filler : {'\x80', '\xbf'}) {
    std::string whole(bytes);
    whole.resize(length, filler);
    if (data::valid_utf8_prefix(whole) == length) return true;
  }
  return false;
}

// Moves whole characters from `bytes` to `text`; an unfinished one stays unless `all`.
void take_characters(std::string& bytes, std::string& text, bool all) {
  std::string_view rest = bytes;
  while (!rest.empty()) {
    const size_t valid = data::valid_utf8_prefix(rest);
    text += rest.substr(0, valid);
    rest.remove_prefix(valid);
    if (rest.empty() || (!all && is_beginning(rest))) break;
    text += kReplacement;
    rest.remove_prefix(1);
  }
  bytes = std::string(rest);
}

// Length of the longest end of `text` that begins `word` without completing it.
size_t overlap(std::string_view text, std::string_view word) {
  for (size_t length = std::min(text.size(), word.size() - 1); length > 0; --length) {
    if (text.ends_with(word.substr(0, length))) return length;
  }
  return 0;
}

}  // namespace

TextStream::TextStream(std::vector<std::string> stop) : stop_(std::move(stop)) {
  for (const std::string& word : stop_) LOCUS_CHECK(!word.empty(), "an empty stop string");
}

std::string TextStream::push(std::string_view bytes) {
  if (stopped_) return "";
  bytes_ += bytes;
  return release(/*all=*/false);
}

std::string TextStream::finish() { return stopped_ ? "" : release(/*all=*/true); }

std::string TextStream::release(bool all) {
  take_characters(bytes_, held_, all);
  std::pair<size_t, size_t> first{std::string::npos, 0};  // end and begin of a stop string
  size_t kept = 0;
  for (const std::string& word : stop_) {
    const size_t begin = held_.find(word);
    if (begin != std::string::npos) first = std::min(first, {begin + word.size(), begin});
    kept = std::max(kept, overlap(held_, word));
  }
  stopped_ = first.first != std::string::npos;
  const size_t length = stopped_ ? first.second : all ? held_.size() : held_.size() - kept;
  std::string released = held_.substr(0, length);
  held_.erase(0, length);
  text_ += released;
  return released;
}

}  // namespace locus::eval
