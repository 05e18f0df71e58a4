// The "added_tokens" of a tokenizer.json: strings that are one token wherever they occur, found
// before anything else happens to the text, or (normalized) just behind the normaliser.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "locus/data/tokenizers/hf_normalizer.h"
#include "locus/data/tokenizers/tokenizer_regex.h"

namespace locus::data {

struct HfAddedToken {
  int32_t id = 0;
  std::string content;
  bool single_word = false;  // not where a letter or digit touches it
  bool lstrip = false;       // takes the white space on its left
  bool rstrip = false;
  bool normalized = false;
  bool special = false;  // left out of decoded text
};

// One set of tokens, all found in the same text.
class HfTokenFinder {
 public:
  HfTokenFinder();

  struct Section {
    size_t begin = 0;
    size_t end = 0;
    int32_t id = -1;  // -1: text without tokens
  };

  // `pattern`: what to look for instead of the content.
  void add(const HfAddedToken& token, std::string pattern);
  bool empty() const { return entries_.empty(); }
  // The longest token wins, the leftmost first.
  std::vector<Section> find(std::string_view text) const;

 private:
  struct Entry {
    HfAddedToken token;
    std::string pattern;
  };
  const Entry* longest_at(std::string_view text) const;
  bool touches_word(std::string_view text, size_t begin, size_t end) const;

  std::vector<Entry> entries_;
  std::array<std::vector<size_t>, 256> by_first_byte_;  // longest first
  TokenizerRegex word_before_;
  TokenizerRegex word_behind_;
};

}  // namespace locus::data
