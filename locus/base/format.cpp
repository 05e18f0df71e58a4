#include "locus/base/format.h"

#include <fmt/args.h>
#include <fmt/format.h>

#include <stdexcept>

namespace locus {

std::string vformat(std::string_view pattern, std::span<const FormatArg> args) {
  if (args.empty()) return std::string(pattern);  // a plain message may hold braces
  fmt::dynamic_format_arg_store<fmt::format_context> store;
  for (const FormatArg& arg : args) {
    std::visit([&store](const auto& value) { store.push_back(value); }, arg);
  }
  try {
    return fmt::vformat(fmt::string_view(pattern.data(), pattern.size()), store);
  } catch (const fmt::format_error& error) {
    throw std::logic_error("format pattern '" + std::string(pattern) + "': " + error.what());
  }
}

std::string_view trimmed(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
}

}  // namespace locus
