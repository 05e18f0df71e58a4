// The "normalizer" of a tokenizer.json: what happens to text before it is cut into words.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "locus/data/tokenizers/tokenizer_regex.h"

namespace locus::data {

enum class UnicodeForm { kNfc, kNfd, kNfkc, kNfkd };

struct HfNormalizerStep {
  enum class Kind { kUnicodeForm, kPrepend, kReplace, kReplaceRegex };
  Kind kind = Kind::kUnicodeForm;
  UnicodeForm form = UnicodeForm::kNfc;
  std::optional<TokenizerRegex> regex;
  std::string from;     // kReplace; not empty
  std::string content;  // kPrepend, kReplace, kReplaceRegex
};

using HfNormalizer = std::vector<HfNormalizerStep>;

// Valid UTF-8 in and out.
std::string normalize(const HfNormalizer& normalizer, std::string text);

std::string replace_all(std::string_view text, std::string_view from, std::string_view to);
std::string replace_all(std::string_view text, const TokenizerRegex& regex, std::string_view to);

}  // namespace locus::data
