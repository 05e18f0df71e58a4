#include "locus/base/toml.h"

#include <toml++/toml.h>

#include <algorithm>
#include <cmath>
#include <sstream>
#include <type_traits>

#include "locus/base/error.h"
#include "locus/base/file.h"

namespace locus {
namespace {

constexpr size_t kCommentColumn = 40;  // comments start here at the latest
constexpr size_t kLineWidth = 100;

// ---- values to text ----

std::string quote(std::string_view text) {
  std::string quoted = "\"";
  for (const char c : text) {
    switch (c) {
      case '"': quoted += "\\\""; break;
      case '\\': quoted += "\\\\"; break;
      case '\n': quoted += "\\n"; break;
      case '\r': quoted += "\\r"; break;
      case '\t': quoted += "\\t"; break;
      default:
        if (const auto code = static_cast<unsigned char>(c); code < 0x20 || code == 0x7f) {
          quoted += format("\\u{:04X}", code);
        } else {
          quoted += c;
        }
    }
  }
  return quoted + '"';
}

std::string value_text(bool value) { return value ? "true" : "false"; }
std::string value_text(int64_t value) { return std::to_string(value); }
std::string value_text(const std::string& value) { return quote(value); }

// The shortest text that reads back to the same bits, and is a float to TOML: 1 becomes 1.0.
std::string value_text(double value) {
  if (std::isnan(value)) return "nan";
  std::string text = format("{}", value);
  if (std::isinf(value)) return text;
  const size_t exponent = text.find('e');
  if (exponent == std::string::npos)
    return text.find('.') == std::string::npos ? text + ".0" : text;
  size_t digits = exponent + 1;
  if (text[digits] == '+') {
    text.erase(digits, 1);
  } else if (text[digits] == '-') {
    ++digits;
  }
  while (text[digits] == '0') text.erase(digits, 1);  // 1e-05 is 1e-5
  return text;
}

template <class T>
std::string value_text(const std::vector<T>& values) {
  std::string text = "[";
  for (const T& value : values) text += (text.size() > 1 ? ", " : "") + value_text(value);
  return text + "]";
}

// ---- what a message calls a value ----

std::string_view type_name(const toml::node& node) {
  switch (node.type()) {
    case toml::node_type::table: return "a table";
    case toml::node_type::array: return "an array";
    case toml::node_type::string: return "a string";
    case toml::node_type::integer: return "an integer";
    case toml::node_type::floating_point: return "a float";
    case toml::node_type::boolean: return "a boolean";
    case toml::node_type::date: return "a date";
    case toml::node_type::time: return "a time";
    case toml::node_type::date_time: return "a date with time";
    case toml::node_type::none: break;
  }
  return "nothing";
}

std::string_view expected_name(bool) { return "true or false"; }
std::string_view expected_name(int64_t) { return "an integer"; }
std::string_view expected_name(double) { return "a number"; }
std::string_view expected_name(const std::string&) { return "a string"; }
std::string_view expected_name(const std::vector<int64_t>&) { return "an array of integers"; }
std::string_view expected_name(const std::vector<double>&) { return "an array of numbers"; }
std::string_view expected_name(const std::vector<std::string>&) { return "an array of strings"; }

// " = 3" for scalars; tables and arrays are too long to repeat.
std::string shown_value(const toml::node& node) {
  constexpr size_t kLongest = 60;
  std::ostringstream stream;
  node.visit([&stream](const auto& typed) {
    if constexpr (toml::is_string<decltype(typed)>) {
      stream << quote(typed.get());
    } else if constexpr (toml::is_value<decltype(typed)>) {
      stream << typed;
    }
  });
  const std::string text = stream.str();
  if (text.empty()) return "";
  return " = " + (text.size() > kLongest ? text.substr(0, kLongest) + "..." : text);
}

// ---- text to values ----

template <class T>
bool read_scalar(const toml::node& node, T& value) {
  if constexpr (std::is_same_v<T, double>) {
    if (const auto* integer = node.as_integer()) {
      value = static_cast<double>(integer->get());
      return true;
    }
  }
  const auto* typed = node.as<T>();
  if (typed != nullptr) value = typed->get();
  return typed != nullptr;
}

// The part of a dotted path before its last dot, with the dot ("moe.router."), and the part after.
std::string parent_of(const std::string& path) { return path.substr(0, path.rfind('.') + 1); }
std::string leaf_of(const std::string& path) { return path.substr(path.rfind('.') + 1); }

// Names directly below `prefix`, keys and tables alike, in order of declaration.
std::vector<std::string> names_below(const Fields& fields, const std::string& prefix) {
  std::vector<std::string> names;
  for (const Field& field : fields) {
    if (!field.path.starts_with(prefix)) continue;
    std::string name = field.path.substr(prefix.size());
    name.resize(std::min(name.size(), name.find('.')));
    if (std::find(names.begin(), names.end(), name) == names.end()) names.push_back(name);
  }
  return names;
}

// Reads documents into fields and gathers all that is wrong with them.
class Reader {
 public:
  explicit Reader(const Fields& fields) : fields_(fields) {}

  void read_text(std::string_view source, std::string_view text) {
    source_ = source;
    has_lines_ = true;
    const size_t first = problems_.size();
    try {
      read_table(toml::parse(text, source), "");
    } catch (const toml::parse_error& error) {
      report(error.source().begin.line, "not valid TOML: ", error.description());
    }
    std::stable_sort(problems_.begin() + static_cast<std::ptrdiff_t>(first), problems_.end(),
                     [](const Problem& a, const Problem& b) { return a.line < b.line; });
  }

  void read_override(const std::string& text);
  void throw_problems() const;

 private:
  struct Problem {
    uint32_t line;
    std::string text;
  };

  void report(uint32_t line, std::string_view what, std::string_view problem) {
    const std::string place = has_lines_ ? format(":{}", line) : "";
    problems_.push_back({line, format("{}{}: {}{}", source_, place, what, problem)});
  }

  const Field* find(const std::string& path) const {
    const auto found = std::find_if(fields_.begin(), fields_.end(),
                                    [&](const Field& field) { return field.path == path; });
    return found == fields_.end() ? nullptr : &*found;
  }

  void read_table(const toml::table& table, const std::string& prefix) {
    for (const auto& [key, node] : table) {
      read_node(prefix + std::string(key.str()), node, key.source().begin.line);
    }
  }

  void read_node(const std::string& path, const toml::node& node, uint32_t line);
  void report_unknown(const std::string& path, uint32_t line);

  template <class T>
  void read_value(const std::string& path, const toml::node& node, uint32_t line, T& value) {
    if (read_scalar(node, value)) return;
    report(
        line, path,
        format("{} is {}; expected {}", shown_value(node), type_name(node), expected_name(value)));
  }

  template <class T>
  void read_value(const std::string& path, const toml::node& node, uint32_t line,
                  std::vector<T>& values) {
    const toml::array* array = node.as_array();
    if (array == nullptr) {
      report(line, path,
             format("{} is {}; expected {}", shown_value(node), type_name(node),
                    expected_name(values)));
      return;
    }
    values.assign(array->size(), T{});
    for (size_t i = 0; i < array->size(); ++i) {
      const toml::node& element = *array->get(i);
      read_value(format("{}[{}]", path, i), element, element.source().begin.line, values[i]);
    }
  }

  const Fields& fields_;
  std::string source_;
  bool has_lines_ = true;
  std::vector<Problem> problems_;
};

void Reader::read_node(const std::string& path, const toml::node& node, uint32_t line) {
  if (const Field* field = find(path)) {
    std::visit([&](auto* value) { read_value(path, node, line, *value); }, field->value);
    return;
  }
  const auto below = std::find_if(fields_.begin(), fields_.end(), [&](const Field& field) {
    return field.path.starts_with(path + ".");
  });
  if (below == fields_.end()) {
    report_unknown(path, line);
  } else if (const toml::table* table = node.as_table()) {
    read_table(*table, path + ".");
  } else {
    report(line, path,
           format("{} is {}; expected a table with keys such as {}", shown_value(node),
                  type_name(node), below->path));
  }
}

void Reader::report_unknown(const std::string& path, uint32_t line) {
  const std::string parent = parent_of(path);
  const std::string leaf = leaf_of(path);
  const std::vector<std::string> siblings = names_below(fields_, parent);
  std::string meant = nearest(leaf, siblings);
  if (!meant.empty()) {
    meant = parent + meant;
  } else {  // perhaps the right key in the wrong table
    std::vector<std::string> leaves;
    for (const Field& field : fields_) leaves.push_back(leaf_of(field.path));
    const std::string near = nearest(leaf, leaves);
    const auto found = std::find(leaves.begin(), leaves.end(), near);
    if (!near.empty()) meant = fields_[static_cast<size_t>(found - leaves.begin())].path;
  }
  std::string advice;
  if (!meant.empty()) {
    advice = "; did you mean " + meant + "?";
  } else {
    for (const std::string& sibling : siblings) {
      advice += (advice.empty() ? "; known here: " : ", ") + sibling;
    }
  }
  report(line, path, " is not a known key" + advice);
}

void Reader::read_override(const std::string& text) {
  source_ = "--set " + text;
  has_lines_ = false;
  const size_t equals = text.find('=');
  if (equals == std::string::npos) {
    report(0, "", "has no value; expected key=value, for example train.seed=3");
    return;
  }
  std::string key;  // spaces around dots are TOML's liberty
  for (const char c : trimmed(std::string_view(text).substr(0, equals))) {
    if (c != ' ' && c != '\t') key += c;
  }
  const std::string value(trimmed(std::string_view(text).substr(equals + 1)));
  if (key.empty() || value.empty()) {
    const std::string_view lacks = key.empty() ? "key before" : "value after";
    report(0, "",
           format("has no {} the \"=\"; expected key=value, for example train.seed=3", lacks));
    return;
  }
  // A string setting takes bare text whatever it looks like ("2026", "a b"); other settings take
  // TOML, and what TOML has no word for is a string, so that the message can name the right type.
  const Field* field = find(key);
  const bool bare = std::string_view("\"'[{").find(value.front()) == std::string_view::npos;
  const bool wants_string = field != nullptr && std::holds_alternative<std::string*>(field->value);
  toml::table document;
  try {
    try {
      document = toml::parse("v = " + (bare && wants_string ? quote(value) : value));
    } catch (const toml::parse_error&) {
      if (!bare) throw;
      document = toml::parse("v = " + quote(value));
    }
  } catch (const toml::parse_error& error) {
    report(0, key, format(" is not valid TOML: {}", error.description()));
    return;
  }
  if (document.size() != 1) {
    report(0, key, ": one setting at a time; give --set again for the next");
    return;
  }
  const toml::node& node = *document.get("v");
  read_node(key, node, 0);
}

void Reader::throw_problems() const {
  if (problems_.empty()) return;
  std::string message;
  for (const Problem& problem : problems_) {
    message += (message.empty() ? "" : "\n") + problem.text;
  }
  throw ConfigError("{}", message);
}

// ---- writing ----

// `comment`, wrapped, to the right of an assignment; "#" stands at `column`.
std::string with_comment(std::string line, const std::string& comment, size_t column) {
  if (comment.empty()) return line + "\n";
  std::istringstream words(comment);
  std::string text;
  std::string word;
  bool starting = true;
  if (line.size() > column - 2) {
    text = line + "\n";
    line.clear();
  }
  while (words >> word) {
    if (!starting && line.size() + 1 + word.size() > kLineWidth) {
      text += line + "\n";
      line.clear();
      starting = true;
    }
    if (starting) line += std::string(column - line.size(), ' ') + "#";
    line += " " + word;
    starting = false;
  }
  return text + line + "\n";
}

// The keys directly in the table `prefix` ("moe.router." or ""), then its sub-tables.
void write_table(const Fields& fields, const std::string& prefix, bool with_docs,
                 std::string& text) {
  std::vector<std::pair<std::string, const Field*>> lines;
  size_t column = 0;
  for (const Field& field : fields) {
    if (parent_of(field.path) != prefix) continue;
    lines.emplace_back(leaf_of(field.path) + " = " + to_toml(field.value), &field);
    if (lines.back().first.size() + 2 <= kCommentColumn) {
      column = std::max(column, lines.back().first.size() + 2);
    }
  }
  if (column == 0) column = kCommentColumn;
  if (!lines.empty() && !prefix.empty()) {
    text += (text.empty() ? "[" : "\n[") + prefix.substr(0, prefix.size() - 1) + "]\n";
  }
  for (const auto& [line, field] : lines) {
    text += with_comment(line, with_docs ? field->doc : "", column);
  }
  for (const std::string& name : names_below(fields, prefix)) {
    const std::string below = prefix + name + ".";
    if (!names_below(fields, below).empty()) write_table(fields, below, with_docs, text);
  }
}

// Optimal string alignment: insertions, deletions, substitutions, swaps of neighbours.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<size_t>> cost(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) cost[i][0] = i;
  for (size_t j = 0; j <= b.size(); ++j) cost[0][j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t substitution = cost[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      cost[i][j] = std::min({cost[i - 1][j] + 1, cost[i][j - 1] + 1, substitution});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        cost[i][j] = std::min(cost[i][j], cost[i - 2][j - 2] + 1);
      }
    }
  }
  return cost[a.size()][b.size()];
}

}  // namespace

void read_toml(std::string_view source, std::string_view text,
               const std::vector<std::string>& overrides, const Fields& fields) {
  Reader reader(fields);
  reader.read_text(source, text);
  for (const std::string& one : overrides) reader.read_override(one);
  reader.throw_problems();
}

void read_toml_file(const std::string& path, const std::vector<std::string>& overrides,
                    const Fields& fields) {
  read_toml(path, read_file(path), overrides, fields);
}

std::string write_toml(const Fields& fields, bool with_docs) {
  std::string text;
  write_table(fields, "", with_docs, text);
  return text;
}

std::string to_toml(const FieldPointer& value) {
  return std::visit([](const auto* pointer) { return value_text(*pointer); }, value);
}

std::string nearest(std::string_view word, const std::vector<std::string>& candidates) {
  std::string best;
  size_t best_distance = std::max<size_t>(1, word.size() / 3) + 1;  // beyond a third: not near
  for (const std::string& candidate : candidates) {
    const size_t distance = edit_distance(word, candidate);
    if (distance < best_distance) {
      best = candidate;
      best_distance = distance;
    }
  }
  return best;
}

}  // namespace locus
