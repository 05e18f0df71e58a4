// The errors of Locus: one family, caught once in cli/main.cpp, each class with its exit code.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

#include "locus/base/format.h"

namespace locus {

// Base of all errors that a user or an environment can cause. what() is one clear message.
class Error : public std::runtime_error {
 public:
  template <class... Args>
  explicit Error(std::string_view pattern, const Args&... args)
      : std::runtime_error(format(pattern, args...)) {}
  virtual int exit_code() const noexcept = 0;
  // True where another process tells the user: this one ends silently.
  virtual bool is_told_elsewhere() const noexcept { return false; }
};

// The user's command line or configuration: names key, value and what would be right.
class ConfigError : public Error {
 public:
  using Error::Error;
  int exit_code() const noexcept override { return 2; }
};

// A missing, truncated, corrupt or unwritable file: names the file.
class DataError : public Error {
 public:
  using Error::Error;
  int exit_code() const noexcept override { return 3; }
};

// A peer was lost or a collective timed out: names rank, step, operation.
class CommError : public Error {
 public:
  using Error::Error;
  int exit_code() const noexcept override { return 4; }
};

// Loss or gradient was not finite after the allowed skips.
class DivergedError : public Error {
 public:
  using Error::Error;
  int exit_code() const noexcept override { return 5; }
};

// SIGINT or SIGTERM ended the work at a clean boundary: 130 or 143.
class Interrupted : public Error {
 public:
  explicit Interrupted(int signal) : Error("interrupted by signal {}", signal), signal_(signal) {}
  int exit_code() const noexcept override { return 128 + signal_; }

 private:
  int signal_;
};

// Ours alone to cause: a failed LOCUS_CHECK. Exit code 1, printed with file and line.
class InternalError : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

// How the program tells an error of this kind ("error", "internal error"): one message on standard
// error. One of several lines is a list.
void print_error(std::string_view kind, const std::string& message);

[[noreturn]] void fail_check(const char* file, int line, const char* condition,
                             const std::string& message);

}  // namespace locus

// LOCUS_CHECK(a == b, "got {} expected {}", a, b): what only we can get wrong.
#define LOCUS_CHECK(condition, ...)                                                         \
  do {                                                                                      \
    if (!(condition)) {                                                                     \
      ::locus::fail_check(__FILE__, __LINE__, #condition, ::locus::format("" __VA_ARGS__)); \
    }                                                                                       \
  } while (false)
