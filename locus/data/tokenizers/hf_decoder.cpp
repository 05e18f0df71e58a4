#include "locus/data/tokenizers/hf_decoder.h"

#include <array>
#include <charconv>
#include <utility>

#include "locus/data/tokenizers/byte_alphabet.h"
#include "locus/data/tokenizers/hf_normalizer.h"
#include "locus/data/utf8.h"
#include "locus/data/utf8_repair.h"

namespace locus::data {
namespace {

using Kind = HfDecoderStep::Kind;

std::string replaced(const HfDecoderStep& step, const std::string& token) {
  return step.regex ? replace_all(token, *step.regex, step.content)
                    : replace_all(token, step.from, step.content);
}

// The byte that "<0x0A>" stands for.
std::optional<char> byte_of(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return std::nullopt;
  unsigned value = 0;
  const auto [end, error] = std::from_chars(token.data() + 3, token.data() + 5, value, 16);
  if (error != std::errc() || end != token.data() + 5) return std::nullopt;
  return static_cast<char>(value);
}

std::vector<std::string> join_bytes(std::vector<std::string> tokens) {
  std::vector<std::string> result;
  std::string bytes;
  const auto flush = [&] {
    if (valid_utf8_prefix(bytes) == bytes.size()) {
      if (!bytes.empty()) result.push_back(bytes);
    } else {
      result.insert(result.end(), bytes.size(), "\xef\xbf\xbd");
    }
    bytes.clear();
  };
  for (std::string& token : tokens) {
    if (const auto byte = byte_of(token)) {
      bytes += *byte;
      continue;
    }
    flush();
    result.push_back(std::move(token));
  }
  flush();
  return result;
}

std::string strip(const HfDecoderStep& step, std::string_view token) {
  const std::string_view mark = step.from;
  for (int64_t i = 0; i < step.num_start && token.starts_with(mark); ++i) {
    token.remove_prefix(mark.size());
  }
  for (int64_t i = 0; i < step.num_stop && token.ends_with(mark); ++i) {
    token.remove_suffix(mark.size());
  }
  return std::string(token);
}

std::string join(const std::vector<std::string>& tokens) {
  std::string text;
  for (const std::string& token : tokens) text += token;
  return text;
}

std::string joined_byte_level(const std::vector<std::string>& tokens) {
  std::string bytes;
  for (const std::string& token : tokens) bytes += bytes_of_token(token).value_or(token);
  return repair_utf8(bytes);
}

}  // namespace

std::string decode_tokens(const HfDecoder& decoder, std::vector<std::string> tokens) {
  for (const HfDecoderStep& step : decoder) {
    switch (step.kind) {
      case Kind::kReplace:
        for (std::string& token : tokens) token = replaced(step, token);
        break;
      case Kind::kByteFallback: tokens = join_bytes(std::move(tokens)); break;
      case Kind::kFuse: tokens = {join(tokens)}; break;
      case Kind::kStrip:
        for (std::string& token : tokens) token = strip(step, token);
        break;
      case Kind::kByteLevel: tokens = {joined_byte_level(tokens)}; break;
      case Kind::kMetaspace:
        for (size_t i = 0; i < tokens.size(); ++i) {
          tokens[i] = replace_all(tokens[i], step.from, i == 0 && step.strip_first ? "" : " ");
        }
        break;
    }
  }
  return join(tokens);
}

std::string decode_piece(const HfDecoder& decoder, std::string token) {
  for (const HfDecoderStep& step : decoder) {
    switch (step.kind) {
      case Kind::kReplace: token = replaced(step, token); break;
      case Kind::kByteFallback:
        if (const auto byte = byte_of(token)) return std::string(1, *byte);
        break;
      case Kind::kByteLevel: token = bytes_of_token(token).value_or(token); break;
      case Kind::kMetaspace: token = replace_all(token, step.from, " "); break;
      case Kind::kFuse:
      case Kind::kStrip: break;
    }
  }
  return token;
}

}  // namespace locus::data
