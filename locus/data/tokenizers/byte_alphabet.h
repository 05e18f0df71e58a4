// GPT-2's alphabet of bytes: each byte as one printable character, so that any text can be written
// with 256 of them (Radford et al., 2019). Printable Latin-1 stands for itself, the other 68 bytes
// are U+0100 to U+0143 in order.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace locus::data {

// The byte's character in UTF-8.
std::string_view byte_character(uint8_t byte);

// The bytes that a token of such characters stands for; none if it holds another character.
std::optional<std::string> bytes_of_token(std::string_view token);

}  // namespace locus::data
