#include "locus/moe/expert_numbers.h"

#include <charconv>
#include <set>
#include <utility>

#include "locus/base/format.h"

namespace locus::moe {
namespace {

std::optional<int64_t> number_of(std::string_view text) {
  text = trimmed(text);
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 0) return std::nullopt;
  return value;
}

// "0-3" or "5"; nothing where it is neither.
std::optional<std::pair<int64_t, int64_t>> range_of(std::string_view text) {
  const size_t dash = text.find('-');
  const auto first = number_of(text.substr(0, dash));
  const auto last = dash == std::string_view::npos ? first : number_of(text.substr(dash + 1));
  constexpr int64_t kMostExperts = 1 << 20;
  if (!first || !last || *last < *first || *last >= kMostExperts) return std::nullopt;
  return std::pair(*first, *last);
}

}  // namespace

std::optional<std::vector<int64_t>> parse_expert_numbers(std::string_view text) {
  std::set<int64_t> numbers;
  while (true) {
    const size_t comma = text.find(',');
    const auto range = range_of(text.substr(0, comma));
    if (!range) return std::nullopt;
    for (int64_t e = range->first; e <= range->second; ++e) numbers.insert(e);
    if (comma == std::string_view::npos) break;
    text.remove_prefix(comma + 1);
  }
  return std::vector<int64_t>(numbers.begin(), numbers.end());
}

std::string expert_numbers_text(const std::vector<int64_t>& numbers) {
  std::string text;
  for (size_t begin = 0, end = 0; begin < numbers.size(); begin = end) {
    end = begin + 1;
    while (end < numbers.size() && numbers[end] == numbers[end - 1] + 1) ++end;
    if (!text.empty()) text += ", ";
    text += std::to_string(numbers[begin]);
    if (end > begin + 1) text.append("-").append(std::to_string(numbers[end - 1]));
  }
  return text;
}

}  // namespace locus::moe
