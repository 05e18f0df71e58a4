// What a SentencePiece model file says, beyond what the library's interface tells.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace locus::data {

struct SentencePieceModel {
  enum class Type { kNormal = 1, kUnknown, kControl, kUserDefined, kUnused, kByte };
  enum class Algorithm { kUnigram = 1, kBpe, kWord, kChar };
  struct Piece {
    std::string text;
    float score = 0;
    Type type = Type::kNormal;
  };
  std::vector<Piece> pieces;  // by id
  Algorithm algorithm = Algorithm::kUnigram;
  bool byte_fallback = false;
  bool whitespace_as_suffix = false;
  // The normaliser.
  bool has_character_map = false;
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  bool escape_whitespaces = true;
  bool has_denormalizer = false;

  // The id of the only piece of this type and text; -1: there is none.
  int32_t find(std::string_view text, Type type) const;
};

// U+2581, which stands for a space in pieces.
constexpr std::string_view kSpaceMark = "\xe2\x96\x81";

// DataError that names the model if this is none.
SentencePieceModel parse_sentencepiece_model(std::string_view serialized, const std::string& name);

// The same unigram model with all scores in steps of kScoreStep; user-defined pieces, which have no
// score of their own, become normal ones with the score 0. See train_tokenizer.cpp.
std::string with_stepped_scores(std::string_view serialized);
constexpr float kScoreStep = 0x1p-4f;

}  // namespace locus::data
