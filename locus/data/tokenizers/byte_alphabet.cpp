#include "locus/data/tokenizers/byte_alphabet.h"

#include <array>

namespace locus::data {
namespace {

struct Alphabet {
  std::array<std::string, 256> characters;
  std::array<int, 0x144> bytes;

  Alphabet() {
    bytes.fill(-1);
    int next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
      const bool printable =
          (byte >= '!' && byte <= '~') || (byte >= 0xa1 && byte <= 0xac) || byte >= 0xae;
      const int code = printable ? byte : next++;
      bytes[static_cast<size_t>(code)] = byte;
      std::string& character = characters[static_cast<size_t>(byte)];
      if (code < 0x80) {
        character = static_cast<char>(code);
      } else {
        character = {static_cast<char>(0xc0 | code >> 6), static_cast<char>(0x80 | (code & 0x3f))};
      }
    }
  }
};

const Alphabet& alphabet() {
  static const Alphabet shared;
  return shared;
}

}  // namespace

std::string_view byte_character(uint8_t byte) { return alphabet().characters[byte]; }

std::optional<std::string> bytes_of_token(std::string_view token) {
  std::string bytes;
  for (size_t i = 0; i < token.size(); ++i) {
    auto code = static_cast<unsigned>(static_cast<unsigned char>(token[i]));
    if (code >= 0x80) {
      if ((code & 0xe0) != 0xc0 || i + 1 == token.size()) return std::nullopt;
      code = (code & 0x1f) << 6 | (static_cast<unsigned char>(token[++i]) & 0x3f);
    }
    if (code >= alphabet().bytes.size() || alphabet().bytes[code] < 0) return std::nullopt;
    bytes += static_cast<char>(alphabet().bytes[code]);
  }
  return bytes;
}

}  // namespace locus::data
