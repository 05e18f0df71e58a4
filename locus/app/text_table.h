// Tables for a terminal: columns as wide as their longest cell.
#pragma once

#include <cstdint>
#include <iosfwd>
#include <string>
#include <vector>

namespace locus::app {

class TextTable {
 public:
  // A heading for each column. What begins with '>' is set to the right: ">tokens".
  explicit TextTable(std::vector<std::string> headings);

  // One cell a column.
  void add_row(std::vector<std::string> cells);

  // Headings (unless all are empty) and rows, `indent` spaces in front of each.
  void print(std::ostream& out, size_t indent = 0) const;

 private:
  std::vector<std::string> headings_;
  std::vector<bool> to_the_right_;
  std::vector<std::vector<std::string>> rows_;
};

// "1,234,567"
std::string with_commas(int64_t number);

}  // namespace locus::app
