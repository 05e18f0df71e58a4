#include "locus/data/tokenizers/sentencepiece_encoder.h"

#include <algorithm>
#include <array>
#include <unordered_set>

#include "locus/data/tokenizers/sentencepiece_words.h"
#include "locus/data/utf8.h"

namespace locus::data {
namespace {

using Type = SentencePieceModel::Type;
using Piece = SentencePieceModel::Piece;

bool leaves_text_alone(const SentencePieceModel& model) {
  return !model.has_character_map && !model.add_dummy_prefix && !model.remove_extra_whitespaces &&
         model.escape_whitespaces && !model.whitespace_as_suffix;
}

bool has_all_bytes(const SentencePieceModel& model) {
  return model.byte_fallback && std::ranges::count(model.pieces, Type::kByte, &Piece::type) == 256;
}

// Spaces, then no more spaces.
bool stays_in_word(std::string_view piece) {
  while (piece.starts_with(kSpaceMark)) piece.remove_prefix(kSpaceMark.size());
  return piece.find(kSpaceMark) == std::string_view::npos &&
         piece.find(' ') == std::string_view::npos;
}

using ByteCounts = std::array<size_t, 256>;

// How many of the normal and user-defined pieces hold a byte.
ByteCounts count_bytes(const SentencePieceModel& model) {
  ByteCounts counts{};
  for (const Piece& piece : model.pieces) {
    if (piece.type != Type::kNormal && piece.type != Type::kUserDefined) continue;
    for (const char byte : std::unordered_set<char>(piece.text.begin(), piece.text.end())) {
      ++counts[static_cast<unsigned char>(byte)];
    }
  }
  return counts;
}

// A character that only this piece holds: whatever stands beside it, it is this piece.
bool is_lone(const Piece& piece, const ByteCounts& counts) {
  const auto byte = static_cast<unsigned char>(piece.text[0]);
  return (piece.type == Type::kNormal || piece.type == Type::kUserDefined) &&
         piece.text.size() == 1 && byte < 0x80 && byte != ' ' && counts[byte] == 1;
}

bool is_suitable(const Piece& piece, const ByteCounts& counts) {
  if (piece.text.empty() || valid_utf8_prefix(piece.text) != piece.text.size()) return false;
  switch (piece.type) {
    case Type::kNormal: return stays_in_word(piece.text);
    case Type::kUserDefined: return is_lone(piece, counts);
    case Type::kUnknown:
    case Type::kControl:
    case Type::kByte: return character_bytes(piece.text) < piece.text.size();
    case Type::kUnused: break;
  }
  return false;
}

}  // namespace

SentencePieceWords::SentencePieceWords(const SentencePieceModel& model) {
  lone_ids_.fill(-1);
  byte_ids_.fill(-1);
  classes_[' '] = Class::kSpace;
  const ByteCounts counts = count_bytes(model);
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    const Piece& piece = model.pieces[id];
    if (piece.type == Type::kByte) {  // "<0x0A>"
      byte_ids_[std::stoul(piece.text.substr(3, 2), nullptr, 16)] = static_cast<int32_t>(id);
    } else if (is_lone(piece, counts)) {
      const auto byte = static_cast<unsigned char>(piece.text[0]);
      lone_ids_[byte] = static_cast<int32_t>(id);
      classes_[byte] = Class::kLone;
    }
  }
}

std::unique_ptr<SentencePieceEncoder> make_sentencepiece_encoder(const SentencePieceModel& model) {
  if (!leaves_text_alone(model) || !has_all_bytes(model)) return nullptr;
  const ByteCounts counts = count_bytes(model);
  const auto suits = [&counts](const Piece& piece) { return is_suitable(piece, counts); };
  if (!std::ranges::all_of(model.pieces, suits)) return nullptr;
  switch (model.algorithm) {
    case SentencePieceModel::Algorithm::kBpe: return make_bpe_encoder(model);
    case SentencePieceModel::Algorithm::kUnigram: return make_unigram_encoder(model);
    case SentencePieceModel::Algorithm::kWord:
    case SentencePieceModel::Algorithm::kChar: break;
  }
  return nullptr;
}

}  // namespace locus::data
