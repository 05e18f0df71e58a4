// Reads sentencepiece_model.proto by hand: a dozen of its fields, without protobuf's compiler.
//
//   ModelProto      1 pieces*  2 trainer_spec  3 normalizer_spec  5 denormalizer_spec
//   SentencePiece   1 piece    2 score         3 type
//   TrainerSpec     3 model_type  24 treat_whitespace_as_suffix  35 byte_fallback
//   NormalizerSpec  2 precompiled_charsmap  3 add_dummy_prefix  4 remove_extra_whitespaces
//                   5 escape_whitespaces
#include "locus/data/tokenizers/sentencepiece_model.h"

#include <bit>
#include <cmath>
#include <cstring>

#include "locus/base/error.h"

namespace locus::data {
namespace {

// One field of a message: a number or bytes.
struct Field {
  uint64_t number = 0;
  uint64_t value = 0;
  std::string_view bytes;
  std::string_view whole;  // with its tag
};

class Message {
 public:
  Message(std::string_view bytes, const std::string& name) : rest_(bytes), name_(name) {}

  bool next(Field* field) {
    if (rest_.empty()) return false;
    const std::string_view start = rest_;
    const uint64_t tag = varint();
    *field = {.number = tag >> 3, .value = 0, .bytes = {}, .whole = {}};
    switch (tag & 7) {
      case 0: field->value = varint(); break;
      case 1: field->bytes = take(8); break;
      case 2: field->bytes = take(varint()); break;
      case 5: field->bytes = take(4); break;
      default: fail();
    }
    field->whole = start.substr(0, start.size() - rest_.size());
    return true;
  }

 private:
  [[noreturn]] void fail() const {
    throw DataError("{}: is no SentencePiece model: it is cut off or damaged", name_);
  }

  uint64_t varint() {
    uint64_t value = 0;
    for (int shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      value |= static_cast<uint64_t>(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
    fail();
  }

  std::string_view take(uint64_t count) {
    if (count > rest_.size()) fail();
    const std::string_view bytes = rest_.substr(0, count);
    rest_.remove_prefix(count);
    return bytes;
  }

  std::string_view rest_;
  const std::string& name_;
};

float to_float(std::string_view bytes) {
  uint32_t bits = 0;
  std::memcpy(&bits, bytes.data(), std::min(bytes.size(), sizeof(bits)));
  return std::bit_cast<float>(bits);
}

SentencePieceModel::Piece parse_piece(std::string_view bytes, const std::string& name) {
  SentencePieceModel::Piece piece;
  Message message(bytes, name);
  for (Field field; message.next(&field);) {
    if (field.number == 1) piece.text = field.bytes;
    if (field.number == 2) piece.score = to_float(field.bytes);
    if (field.number == 3) piece.type = static_cast<SentencePieceModel::Type>(field.value);
  }
  return piece;
}

void parse_trainer(std::string_view bytes, const std::string& name, SentencePieceModel* model) {
  Message message(bytes, name);
  for (Field field; message.next(&field);) {
    const bool yes = field.value != 0;
    if (field.number == 3) {
      model->algorithm = static_cast<SentencePieceModel::Algorithm>(field.value);
    }
    if (field.number == 24) model->whitespace_as_suffix = yes;
    if (field.number == 35) model->byte_fallback = yes;
  }
}

void parse_normalizer(std::string_view bytes, const std::string& name, SentencePieceModel* model) {
  Message message(bytes, name);
  for (Field field; message.next(&field);) {
    const bool yes = field.value != 0;
    if (field.number == 2) model->has_character_map = !field.bytes.empty();
    if (field.number == 3) model->add_dummy_prefix = yes;
    if (field.number == 4) model->remove_extra_whitespaces = yes;
    if (field.number == 5) model->escape_whitespaces = yes;
  }
}

bool has_character_map(std::string_view bytes, const std::string& name) {
  SentencePieceModel scratch;
  parse_normalizer(bytes, name, &scratch);
  return scratch.has_character_map;
}

void append_varint(uint64_t value, std::string* out) {
  for (; value >= 0x80; value >>= 7) *out += static_cast<char>(value | 0x80);
  *out += static_cast<char>(value);
}

// A SentencePiece message; the default type is left out.
std::string serialize(const SentencePieceModel::Piece& piece) {
  const auto bits = std::bit_cast<uint32_t>(piece.score);
  std::string result = "\x0a";
  append_varint(piece.text.size(), &result);
  result += piece.text + "\x15";
  result.append(reinterpret_cast<const char*>(&bits), sizeof(bits));
  if (piece.type != SentencePieceModel::Type::kNormal) {
    result += "\x18";
    append_varint(static_cast<uint64_t>(piece.type), &result);
  }
  return result;
}

}  // namespace

int32_t SentencePieceModel::find(std::string_view text, Type type) const {
  for (size_t id = 0; id < pieces.size(); ++id) {
    if (pieces[id].type == type && pieces[id].text == text) return static_cast<int32_t>(id);
  }
  return -1;
}

SentencePieceModel parse_sentencepiece_model(std::string_view serialized, const std::string& name) {
  SentencePieceModel model;
  Message message(serialized, name);
  for (Field field; message.next(&field);) {
    if (field.number == 1) model.pieces.push_back(parse_piece(field.bytes, name));
    if (field.number == 2) parse_trainer(field.bytes, name, &model);
    if (field.number == 3) parse_normalizer(field.bytes, name, &model);
    if (field.number == 5) model.has_denormalizer = has_character_map(field.bytes, name);
  }
  return model;
}

std::string with_stepped_scores(std::string_view serialized) {
  using Type = SentencePieceModel::Type;
  const std::string name = "the model";
  std::string result;
  Message message(serialized, name);
  for (Field field; message.next(&field);) {
    if (field.number != 1) {
      result += field.whole;
      continue;
    }
    SentencePieceModel::Piece piece = parse_piece(field.bytes, name);
    piece.score = std::round(piece.score / kScoreStep) * kScoreStep;
    if (piece.type == Type::kUserDefined) piece = {piece.text, 0, Type::kNormal};
    const std::string bytes = serialize(piece);
    result += "\x0a";
    append_varint(bytes.size(), &result);
    result += bytes;
  }
  return result;
}

}  // namespace locus::data
