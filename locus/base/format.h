// format("{} of {:.2f}", a, b): fmt's patterns without fmt's headers.
//
// libtorch's wheel ships its own fmt, which shadows the distribution's in any file that sees torch.
// So fmt is included by format.cpp alone, and arguments cross over as this small variant.
#pragma once

#include <array>
#include <concepts>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>
#include <string_view>
#include <variant>

namespace locus {

using FormatArg = std::variant<bool, int64_t, uint64_t, double, std::string_view>;

std::string vformat(std::string_view pattern, std::span<const FormatArg> args);

namespace detail {

template <class T>
FormatArg to_format_arg(const T& value) {
  if constexpr (std::same_as<T, bool>) {
    return value;
  } else if constexpr (std::floating_point<T>) {
    return static_cast<double>(value);
  } else if constexpr (std::signed_integral<T>) {
    return static_cast<int64_t>(value);
  } else if constexpr (std::unsigned_integral<T>) {
    return static_cast<uint64_t>(value);
  } else {
    return std::string_view(value);
  }
}

}  // namespace detail

// Patterns are literals of ours: a wrong one is our bug and throws std::logic_error.
template <class... Args>
std::string format(std::string_view pattern, const Args&... args) {
  const std::array<FormatArg, sizeof...(Args)> erased{detail::to_format_arg(args)...};
  return vformat(pattern, erased);
}

// Without spaces and tabs at its ends.
std::string_view trimmed(std::string_view text);

}  // namespace locus
