#include "locus/report/config_lines.h"

#include "locus/base/error.h"

namespace locus::report {
namespace {

std::string_view trim(std::string_view text) {
  const size_t begin = text.find_first_not_of(" \t\r");
  if (begin == std::string_view::npos) return {};
  return text.substr(begin, text.find_last_not_of(" \t\r") - begin + 1);
}

struct Scan {
  std::string_view code;  // the line up to its comment
  int depth = 0;          // brackets left open
  bool closed = true;     // no string left open
};

// Walks one line past strings, so that '#', '[' and ']' inside of them do not count.
Scan scan_line(std::string_view line) {
  Scan scan{line};
  char quote = 0;
  for (size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (quote != 0) {
      if (c == '\\' && quote == '"') {
        ++i;
      } else if (c == quote) {
        quote = 0;
      }
    } else if (c == '"' || c == '\'') {
      quote = c;
    } else if (c == '#') {
      scan.code = line.substr(0, i);
      break;
    } else if (c == '[' || c == '{') {
      ++scan.depth;
    } else if (c == ']' || c == '}') {
      --scan.depth;
    }
  }
  scan.closed = quote == 0;
  scan.code = trim(scan.code);
  return scan;
}

}  // namespace

std::vector<ConfigLine> read_config_lines(std::string_view source, std::string_view text) {
  std::vector<ConfigLine> lines;
  std::string table;
  int line_number = 0;
  int depth = 0;  // > 0: inside an array that spans lines
  while (!text.empty()) {
    const size_t length = std::min(text.find('\n'), text.size());
    const Scan scan = scan_line(text.substr(0, length));
    text.remove_prefix(std::min(length + 1, text.size()));
    ++line_number;
    if (!scan.closed) throw DataError("{}:{}: a string without its end", source, line_number);
    if (scan.code.empty()) continue;
    if (depth > 0) {
      lines.back().value.append(" ").append(scan.code);
      depth += scan.depth;
      continue;
    }
    if (scan.code.front() == '[') {
      if (scan.depth != 0) throw DataError("{}:{}: a table without ']'", source, line_number);
      table = std::string(trim(scan.code.substr(1, scan.code.size() - 2))) + ".";
      continue;
    }
    const size_t equals = scan.code.find('=');
    if (equals == std::string_view::npos) {
      throw DataError("{}:{}: '{}' is neither a table nor key = value", source, line_number,
                      scan.code.substr(0, 60));
    }
    lines.push_back({table + std::string(trim(scan.code.substr(0, equals))),
                     std::string(trim(scan.code.substr(equals + 1)))});
    depth = scan.depth;
  }
  if (depth > 0) throw DataError("{}:{}: an array without its end", source, line_number);
  return lines;
}

}  // namespace locus::report
