// What both kinds of SentencePieceEncoder share: where the words of a text are.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "locus/data/tokenizers/hf_normalizer.h"
#include "locus/data/tokenizers/sentencepiece_encoder.h"

namespace locus::data {

// sentencepiece_bpe.cpp and sentencepiece_unigram.cpp
std::unique_ptr<SentencePieceEncoder> make_bpe_encoder(const SentencePieceModel& model);
std::unique_ptr<SentencePieceEncoder> make_unigram_encoder(const SentencePieceModel& model);

class SentencePieceWords {
 public:
  explicit SentencePieceWords(const SentencePieceModel& model);

  // Calls word(text) for spaces with what follows, and lone(byte) for characters that are always a
  // piece of their own, in the order of the text.
  template <class Word, class Lone>
  void for_each(std::string_view text, Word word, Lone lone) const {
    std::string unmarked;
    if (text.find(kSpaceMark) != std::string_view::npos) {
      unmarked = replace_all(text, kSpaceMark, " ");
      text = unmarked;
    }
    const auto class_at = [&](size_t i) { return classes_[static_cast<unsigned char>(text[i])]; };
    for (size_t begin = 0; begin < text.size();) {
      if (class_at(begin) == Class::kLone) {
        lone(static_cast<unsigned char>(text[begin++]));
        continue;
      }
      size_t end = begin;
      while (end < text.size() && class_at(end) == Class::kSpace) ++end;
      while (end < text.size() && class_at(end) == Class::kOther) ++end;
      word(text.substr(begin, end - begin));
      begin = end;
    }
  }

  int32_t lone_id(unsigned char byte) const { return lone_ids_[byte]; }
  int32_t byte_id(char byte) const { return byte_ids_[static_cast<unsigned char>(byte)]; }

 private:
  enum class Class : uint8_t { kOther, kSpace, kLone };
  std::array<Class, 256> classes_{};
  std::array<int32_t, 256> lone_ids_{};
  std::array<int32_t, 256> byte_ids_{};
};

// With spaces for U+2581.
inline std::string unmarked(std::string_view piece) { return replace_all(piece, kSpaceMark, " "); }

// Bytes of the character that valid UTF-8 begins with.
inline size_t character_bytes(std::string_view text) {
  const auto lead = static_cast<unsigned char>(text[0]);
  return lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
}

}  // namespace locus::data
