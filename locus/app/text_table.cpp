#include "locus/app/text_table.h"

#include <algorithm>
#include <ostream>
#include <string_view>

#include "locus/base/error.h"

namespace locus::app {
namespace {

// Code points, which is columns for all but wide scripts.
size_t columns_of(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

}  // namespace

TextTable::TextTable(std::vector<std::string> headings) : headings_(std::move(headings)) {
  for (std::string& heading : headings_) {
    to_the_right_.push_back(heading.starts_with('>'));
    if (to_the_right_.back()) heading.erase(0, 1);
  }
}

void TextTable::add_row(std::vector<std::string> cells) {
  LOCUS_CHECK(cells.size() == headings_.size(), "{} cells for {} columns", cells.size(),
              headings_.size());
  rows_.push_back(std::move(cells));
}

void TextTable::print(std::ostream& out, size_t indent) const {
  std::vector<size_t> widths(headings_.size(), 0);
  const auto measure = [&widths](const std::vector<std::string>& row) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], columns_of(row[i]));
  };
  const auto print_row = [&](const std::vector<std::string>& row) {
    std::string line(indent, ' ');
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string padding(widths[i] - columns_of(row[i]), ' ');
      line += (i == 0 ? "" : "  ") + (to_the_right_[i] ? padding + row[i] : row[i] + padding);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out << line << "\n";
  };
  measure(headings_);
  for (const auto& row : rows_) measure(row);
  const bool has_headings = std::any_of(headings_.begin(), headings_.end(),
                                        [](const std::string& one) { return !one.empty(); });
  if (has_headings) print_row(headings_);
  for (const auto& row : rows_) print_row(row);
}

std::string with_commas(int64_t number) {
  std::string digits = std::to_string(number);
  const size_t first = digits.front() == '-' ? 1 : 0;
  for (size_t i = digits.size(); i > first + 3; i -= 3) digits.insert(i - 3, 1, ',');
  return digits;
}

}  // namespace locus::app
