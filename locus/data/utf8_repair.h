// UTF-8 out of any bytes.
#pragma once

#include <string>
#include <string_view>

namespace locus::data {

// Each maximal piece of a malformed sequence becomes U+FFFD, as Unicode (3.9, "best practice"),
// Rust and Python do it.
std::string repair_utf8(std::string_view bytes);

}  // namespace locus::data
