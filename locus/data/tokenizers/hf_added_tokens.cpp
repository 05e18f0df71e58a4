#include "locus/data/tokenizers/hf_added_tokens.h"

#include <algorithm>
#include <utility>

#include "locus/data/utf8.h"

namespace locus::data {
namespace {

const char* const kWord = "[\\p{Alphabetic}\\p{M}\\p{Nd}\\p{Pc}\\p{Join_Control}]";

// Bytes of the white space character (Unicode's White_Space) that `text` begins with; 0: none.
size_t leading_space(std::string_view text) {
  if (text.empty()) return 0;
  const auto lead = static_cast<unsigned char>(text[0]);
  if ((lead >= 0x09 && lead <= 0x0d) || lead == 0x20) return 1;
  if (text.starts_with("\xc2\x85") || text.starts_with("\xc2\xa0")) return 2;
  if (lead < 0xe1 || lead > 0xe3 || text.size() < 3) return 0;
  const unsigned code = static_cast<unsigned>(lead & 0x0f) << 12 |
                        static_cast<unsigned>(static_cast<unsigned char>(text[1]) & 0x3f) << 6 |
                        static_cast<unsigned>(static_cast<unsigned char>(text[2]) & 0x3f);
  const bool space = code == 0x1680 || (code >= 0x2000 && code <= 0x200a) || code == 0x2028 ||
                     code == 0x2029 || code == 0x202f || code == 0x205f || code == 0x3000;
  return space ? 3 : 0;
}

size_t begin_of_trailing_spaces(std::string_view text) {
  size_t begin = text.size();
  while (begin > 0) {
    const size_t character = utf8_boundary(text, begin - 1);
    if (leading_space(text.substr(character)) != begin - character) break;
    begin = character;
  }
  return begin;
}

size_t length_of_leading_spaces(std::string_view text) {
  size_t length = 0;
  while (const size_t space = leading_space(text.substr(length))) length += space;
  return length;
}

}  // namespace

HfTokenFinder::HfTokenFinder()
    : word_before_(std::string(kWord) + "\\z"), word_behind_(std::string("\\A") + kWord) {}

void HfTokenFinder::add(const HfAddedToken& token, std::string pattern) {
  if (pattern.empty()) return;
  std::vector<size_t>& same_byte = by_first_byte_[static_cast<unsigned char>(pattern[0])];
  entries_.push_back({token, std::move(pattern)});
  same_byte.push_back(entries_.size() - 1);
  std::ranges::stable_sort(same_byte, [this](size_t a, size_t b) {
    return entries_[a].pattern.size() > entries_[b].pattern.size();
  });
}

const HfTokenFinder::Entry* HfTokenFinder::longest_at(std::string_view text) const {
  for (const size_t entry : by_first_byte_[static_cast<unsigned char>(text[0])]) {
    if (text.starts_with(entries_[entry].pattern)) return &entries_[entry];
  }
  return nullptr;
}

bool HfTokenFinder::touches_word(std::string_view text, size_t begin, size_t end) const {
  std::vector<TextSpan> spans;
  const size_t before = begin == 0 ? 0 : utf8_boundary(text, begin - 1);
  word_before_.find_all(text.substr(before, begin - before), &spans);
  if (!spans.empty()) return true;
  word_behind_.find_all(text.substr(end, 4), &spans);
  return !spans.empty();
}

std::vector<HfTokenFinder::Section> HfTokenFinder::find(std::string_view text) const {
  std::vector<Section> sections;
  size_t done = 0;
  for (size_t i = 0; i < text.size() && !entries_.empty();) {
    const Entry* found = longest_at(text.substr(i));
    if (found == nullptr) {
      ++i;
      continue;
    }
    size_t begin = i;
    size_t end = i += found->pattern.size();
    if (found->token.single_word && touches_word(text, begin, end)) continue;
    if (found->token.lstrip) {
      begin = std::max(done, begin_of_trailing_spaces(text.substr(0, begin)));
    }
    if (found->token.rstrip) end += length_of_leading_spaces(text.substr(end));
    if (done < begin) sections.push_back({done, begin, -1});
    sections.push_back({begin, end, found->token.id});
    done = end;
  }
  if (done < text.size()) sections.push_back({done, text.size(), -1});
  return sections;
}

}  // namespace locus::data
