// From the bytes of tokens to text that can be shown as it grows: whole UTF-8 characters only, and
// never a part of a stop string.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace locus::eval {

class TextStream {
 public:
  // Each stop string ends the text before its first occurrence. UTF-8; none may be empty.
  explicit TextStream(std::vector<std::string> stop = {});

  // The bytes of one more token. Returns the text that is certain now. Bytes that cannot become
  // UTF-8 turn into U+FFFD. Where stop strings overlap, the one that is complete first counts: the
  // result does not depend on how the bytes are cut into tokens.
  std::string push(std::string_view bytes);
  // The end of the tokens: returns what was held back.
  std::string finish();

  bool stopped() const { return stopped_; }
  // All that push() and finish() have returned.
  const std::string& text() const { return text_; }

 private:
  std::string release(bool all);

  std::vector<std::string> stop_;
  std::string bytes_;  // the beginning of a character
  std::string held_;   // characters that may begin a stop string
  std::string text_;
  bool stopped_ = false;
};

}  // namespace locus::eval
