// Log lines on stderr and in a file of the run. The library never writes to stdout.
#pragma once

#include <string>
#include <string_view>

#include "locus/base/format.h"

namespace locus::log {

enum class Level { kDebug, kInfo, kWarning, kError, kOff };

// "debug" | "info" | "warning" | "error" | "off"; ConfigError otherwise.
Level parse_level(std::string_view name);
void set_level(Level level);

// From now on every line also goes to this file, until close_file(). DataError if it cannot be
// opened.
void open_file(const std::string& path);
void close_file();

// Nothing more on stderr, for all ranks but one; a file goes on.
void silence_stderr();

void write(Level level, std::string_view message);
// Into the file alone, where there is one: what is told on stderr in another way. At any level.
void write_to_file(Level level, std::string_view message);

template <class... Args>
void debug(std::string_view pattern, const Args&... args) {
  write(Level::kDebug, format(pattern, args...));
}
template <class... Args>
void info(std::string_view pattern, const Args&... args) {
  write(Level::kInfo, format(pattern, args...));
}
template <class... Args>
void warning(std::string_view pattern, const Args&... args) {
  write(Level::kWarning, format(pattern, args...));
}
template <class... Args>
void error(std::string_view pattern, const Args&... args) {
  write(Level::kError, format(pattern, args...));
}

}  // namespace locus::log
