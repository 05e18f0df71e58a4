// The regular expressions of tokenizer.json. `tokenizers` runs them with Oniguruma, we run them
// with PCRE2 (JIT, about ten times as fast): a pattern is translated first, and one that means
// something else there, or that we do not know to mean the same, is refused.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace locus::data {

struct TextSpan {
  size_t begin = 0;
  size_t end = 0;
};

class TokenizerRegex {
 public:
  // A pattern in Oniguruma's dialect. DataError that begins with `where` if it is not supported.
  static TokenizerRegex from_oniguruma(std::string_view pattern, const std::string& where);
  // A pattern of ours, in PCRE2's dialect.
  explicit TokenizerRegex(const std::string& pattern, const std::string& where = "");

  // Replaces `spans` by all matches in valid UTF-8, from left to right. An empty match counts
  // unless it touches the match before it. Any number of threads may search.
  void find_all(std::string_view text, std::vector<TextSpan>* spans) const;

 private:
  std::shared_ptr<void> code_;  // pcre2_code
  std::string pattern_;
};

// The same pattern for PCRE2. DataError that begins with `where`.
std::string oniguruma_to_pcre2(std::string_view pattern, const std::string& where);

}  // namespace locus::data
