#include "cli/help.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <utility>
#include <vector>

namespace locus::cli {
namespace {

constexpr size_t kMaxColumns = 100;   // longer lines are hard to read
constexpr size_t kMaxDocColumn = 32;  // a longer option stands alone, its text below it
constexpr std::string_view kNegation = "--no-";
constexpr char kNoBreak = '\x1f';  // a space at which wrap() does not break

using Row = std::pair<std::string, std::string>;  // what is typed, what it means

std::string full_name(const CLI::App& command) {
  const CLI::App* parent = command.get_parent();
  return parent == nullptr ? command.get_name() : full_name(*parent) + " " + command.get_name();
}

bool is_list(const CLI::Option& option) { return option.get_expected_max() > 1; }

// "INPUT..." as usage shows an argument; brackets say that it may be left out.
std::string argument_name(const CLI::Option& option) {
  return option.get_name(/*positional=*/true) + (is_list(option) ? "..." : "");
}

// "--tokenizer FILE"; a switch as "--[no-]deduplicate".
std::string option_name(const CLI::Option& option) {
  std::string name;
  for (const std::string& word : option.get_snames()) name += "-" + word + ", ";
  const std::vector<std::string>& words = option.get_lnames();
  const bool is_switch = words.size() == 2 && ("--" + words[1]).starts_with(kNegation);
  name += (is_switch ? "--[no-]" : "--") + words.front();
  const std::string placeholder = option.get_type_name();
  return placeholder.empty() ? name : name + " " + placeholder;
}

std::string option_doc(const CLI::Option& option) {
  std::string doc = option.get_description();
  if (option.get_required() && option.nonpositional()) return doc + " (required)";
  const std::string value = option.get_default_str();
  return value.empty() ? doc : doc + " (default:" + kNoBreak + value + ")";
}

std::string usage(const CLI::App& command) {
  std::string text = "Usage: " + full_name(command);
  std::string arguments;
  bool has_choice = false;
  for (const CLI::Option* option : command.get_options()) {
    if (option->get_positional()) {
      const std::string name = argument_name(*option);
      arguments += option->get_required() ? " " + name : " [" + name + "]";
    } else if (option->get_required()) {
      text += " " + option_name(*option);
    } else {
      has_choice = true;
    }
  }
  if (!command.get_subcommands({}).empty()) arguments += " COMMAND ...";
  return text + (has_choice ? " [OPTIONS]" : "") + arguments + "\n";
}

std::string format_rows(const std::string& heading, const std::vector<Row>& rows, size_t columns) {
  size_t column = 0;
  for (const auto& [name, doc] : rows) {
    if (name.size() + 4 <= kMaxDocColumn) column = std::max(column, name.size() + 4);
  }
  if (column == 0) column = kMaxDocColumn;
  std::string text = "\n" + heading + ":\n";
  for (const auto& [name, doc] : rows) {
    text += "  " + name;
    size_t at = name.size() + 2;
    if (at + 2 > column) {
      text += "\n";
      at = 0;
    }
    text += std::string(column - at, ' ') + wrap(doc, column, column, columns) + "\n";
  }
  return text;
}

std::vector<Row> option_rows(const CLI::App& command, const std::string& group) {
  std::vector<Row> rows;
  for (const CLI::Option* option : command.get_options()) {
    if (option->get_group() != group) continue;
    rows.emplace_back(option->get_positional() ? argument_name(*option) : option_name(*option),
                      option_doc(*option));
  }
  return rows;
}

}  // namespace

int terminal_columns() {
  constexpr int kUsualColumns = 80;
  winsize size{};
  const bool known = ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  return known ? size.ws_col : kUsualColumns;
}

std::string wrap(std::string_view text, size_t first_column, size_t indent, size_t columns) {
  std::string wrapped;
  size_t column = first_column;
  while (!text.empty()) {
    const std::string_view word = text.substr(0, text.find(' '));
    text.remove_prefix(std::min(text.size(), word.size() + 1));
    const bool starts_line = column == (wrapped.empty() ? first_column : indent);
    if (!starts_line && column + 1 + word.size() > columns) {
      wrapped += "\n" + std::string(indent, ' ');
      column = indent;
    } else if (!starts_line) {
      wrapped += ' ';
      ++column;
    }
    wrapped += word;
    column += word.size();
  }
  std::replace(wrapped.begin(), wrapped.end(), kNoBreak, ' ');
  return wrapped;
}

std::string format_help(const CLI::App& command, std::string_view description,
                        std::string_view footer, int columns) {
  const size_t width =
      std::clamp<size_t>(static_cast<size_t>(std::max(columns, 0)), 40, kMaxColumns);
  std::string text = usage(command) + "\n" + wrap(description, 0, 0, width) + "\n";
  std::vector<Row> commands;
  for (const CLI::App* one : command.get_subcommands({})) {
    commands.emplace_back(one->get_name(), one->get_description());
  }
  if (!commands.empty()) text += format_rows("Commands", commands, width);
  std::vector<std::string> groups = command.get_groups();
  // What every command has stands last.
  std::stable_partition(groups.begin(), groups.end(),
                        [](const std::string& group) { return group != "Global options"; });
  for (const std::string& group : groups) {
    const std::vector<Row> rows = option_rows(command, group);
    if (!rows.empty()) text += format_rows(group, rows, width);
  }
  return text + (footer.empty() ? "" : "\n") + std::string(footer);
}

}  // namespace locus::cli
