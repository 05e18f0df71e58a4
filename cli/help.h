// The text of --help, wrapped for the terminal.
#pragma once

#include <string>
#include <string_view>

namespace CLI {
class App;
}

namespace locus::cli {

// Columns of the terminal on standard output, 80 where it is none.
int terminal_columns();

// Usage, `description` (wrapped), commands, options by group, then `footer` as it stands.
std::string format_help(const CLI::App& command, std::string_view description,
                        std::string_view footer, int columns);

// `text` with line breaks between words: lines of at most `columns`, all but the first indented.
std::string wrap(std::string_view text, size_t first_column, size_t indent, size_t columns);

}  // namespace locus::cli
