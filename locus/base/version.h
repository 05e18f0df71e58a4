// The version of the library: one place, read by CMakeLists.txt too.
#pragma once

#include <string_view>

namespace locus {

inline constexpr std::string_view kVersion = "0.1.0";

}  // namespace locus
