// The "decoder" of a tokenizer.json: tokens back to text.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "locus/data/tokenizers/tokenizer_regex.h"

namespace locus::data {

struct HfDecoderStep {
  enum class Kind {
    kReplace,       // in each token
    kByteFallback,  // "<0x0A>" becomes the byte; bytes that are no UTF-8 become U+FFFD each
    kFuse,          // all tokens become one
    kStrip,         // up to `num_start` and `num_stop` of `from` at the ends of each token
    kByteLevel,     // GPT-2's characters become bytes, and all tokens one
    kMetaspace,     // `from` becomes a space; in the first token nothing if `strip_first`
  };
  Kind kind = Kind::kFuse;
  std::optional<TokenizerRegex> regex;
  std::string from;
  std::string content;
  int64_t num_start = 0;
  int64_t num_stop = 0;
  bool strip_first = false;
};

using HfDecoder = std::vector<HfDecoderStep>;

std::string decode_tokens(const HfDecoder& decoder, std::vector<std::string> tokens);

// What one token alone gives, bytes as they are, nothing stripped.
std::string decode_piece(const HfDecoder& decoder, std::string token);

}  // namespace locus::data
