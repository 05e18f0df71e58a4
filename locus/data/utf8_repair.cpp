#include "locus/data/utf8_repair.h"

#include <cstddef>

#include "locus/data/utf8.h"

namespace locus::data {
namespace {

// Bytes at the start of `bytes`, which is malformed there, that could have begun a character.
size_t broken_length(std::string_view bytes) {
  const auto lead = static_cast<unsigned char>(bytes[0]);
  const size_t wanted = lead >= 0xf0 && lead <= 0xf4   ? 4
                        : lead >= 0xe0 && lead <= 0xef ? 3
                        : lead >= 0xc2 && lead <= 0xdf ? 2
                                                       : 1;
  size_t length = 1;
  while (length < wanted && length < bytes.size()) {
    const auto byte = static_cast<unsigned char>(bytes[length]);
    unsigned char low = 0x80, high = 0xbf;
    if (length == 1) {
      if (lead == 0xe0) low = 0xa0;
      if (lead == 0xf0) low = 0x90;
      if (lead == 0xed) high = 0x9f;
      if (lead == 0xf4) high = 0x8f;
    }
    if (byte < low || byte > high) break;
    ++length;
  }
  return length;
}

}  // namespace

std::string repair_utf8(std::string_view bytes) {
  std::string text;
  text.reserve(bytes.size());
  while (!bytes.empty()) {
    const size_t good = valid_utf8_prefix(bytes);
    text.append(bytes.substr(0, good));
    bytes.remove_prefix(good);
    if (bytes.empty()) break;
    text += "\xef\xbf\xbd";
    bytes.remove_prefix(broken_length(bytes));
  }
  return text;
}

}  // namespace locus::data
