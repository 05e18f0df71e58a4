#include "locus/base/error.h"

#include <iostream>

#include "locus/base/progress.h"

namespace locus {

void print_error(std::string_view kind, const std::string& message) {
  ProgressBar::clear_line();
  std::string text;
  for (const char c : message) text += c == '\n' ? std::string("\n  ") : std::string(1, c);
  const std::string head =
      format("locus: {}{}", kind, text.size() > message.size() ? ":\n  " : ": ");
  std::cerr << head + text + "\n" << std::flush;  // in one piece: other ranks write, too
}

void fail_check(const char* file, int line, const char* condition, const std::string& message) {
  throw InternalError(format("{}:{}: check failed: {}{}{}", file, line, condition,
                             message.empty() ? "" : ": ", message));
}

}  // namespace locus
