// The "pre_tokenizer" of a tokenizer.json: cuts text into the words within which pieces are merged.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "locus/data/tokenizers/tokenizer_regex.h"

namespace locus::data {

enum class SplitBehavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };
enum class PrependScheme { kAlways, kFirst, kNever };

struct HfPreTokenizerStep {
  enum class Kind {
    kSplit,        // at matches of `regex` or `literal`
    kPrefixSpace,  // in front of words without a leading space
    kByteMap,      // each byte becomes a printable character (byte_alphabet.h)
    kMetaspace,    // spaces become `literal`, and one is put in front as `scheme` says
  };
  Kind kind = Kind::kSplit;
  std::optional<TokenizerRegex> regex;
  std::string literal;
  SplitBehavior behavior = SplitBehavior::kIsolated;
  bool invert = false;
  PrependScheme scheme = PrependScheme::kAlways;
};

using HfPreTokenizer = std::vector<HfPreTokenizerStep>;

// Words of one text; none is empty.
struct HfWords {
  struct Word {
    size_t begin = 0;
    size_t end = 0;
    bool at_start = false;  // of the whole text
  };
  std::string text;
  std::vector<Word> words;

  std::string_view view(const Word& word) const {
    return std::string_view(text).substr(word.begin, word.end - word.begin);
  }
};

void pre_tokenize(const HfPreTokenizer& steps, HfWords* words);

}  // namespace locus::data
