// SentencePiece models (Kudo and Richardson, 2018), through the library.
#include <sentencepiece_processor.h>

#include <limits>

#include "locus/base/error.h"
#include "locus/base/log.h"
#include "locus/data/tokenizer.h"
#include "locus/data/tokenizers/sentencepiece_encoder.h"
#include "locus/data/tokenizers/sentencepiece_files.h"
#include "locus/data/tokenizers/sentencepiece_model.h"
#include "locus/data/tokenizers/tokenizer_files.h"
#include "locus/data/utf8.h"

namespace locus::data {
namespace {

std::string unmark_spaces(std::string_view piece) {
  std::string text;
  while (!piece.empty()) {
    const bool mark = piece.starts_with(kSpaceMark);
    text += mark ? ' ' : piece.front();
    piece.remove_prefix(mark ? kSpaceMark.size() : 1);
  }
  return text;
}

class SentencePieceTokenizer final : public Tokenizer {
 public:
  SentencePieceTokenizer(std::string serialized, const std::string& name)
      : name_(name), serialized_(std::move(serialized)) {
    const auto status = processor_.LoadFromSerializedProto(serialized_);
    if (!status.ok() || processor_.GetPieceSize() == 0) {
      throw DataError("{}: is no SentencePiece model: {}", name_,
                      status.ok() ? "it holds no pieces" : status.message());
    }
    eod_id_ = processor_.eos_id() >= 0 ? processor_.eos_id() : processor_.bos_id();
    if (eod_id_ < 0) {
      throw DataError(
          "{}: the model has neither an end-of-sentence nor a begin-of-sentence piece; "
          "one of them must end each document",
          name_);
    }
    model_ = parse_sentencepiece_model(serialized_, name_);
    encoder_ = make_sentencepiece_encoder(model_);
  }

  std::vector<int32_t> encode(std::string_view text) const override {
    if (text.size() > static_cast<size_t>(std::numeric_limits<int32_t>::max())) {
      throw DataError("{}: a text of {} bytes is too long to be tokenised at once (limit 2^31 - 1)",
                      name_, text.size());
    }
    if (encoder_ != nullptr && valid_utf8_prefix(text) == text.size())
      return encoder_->encode(text);
    std::vector<int> ids;
    const auto status = processor_.Encode(text, &ids);
    if (!status.ok()) throw DataError("{}: cannot encode a text: {}", name_, status.message());
    return ids;
  }

  std::string decode(const std::vector<int32_t>& ids) const override {
    for (const int32_t id : ids) check_id(id);
    std::string text;
    const auto status = processor_.Decode(ids, &text);
    if (!status.ok()) throw DataError("{}: cannot decode: {}", name_, status.message());
    return text;
  }

  std::string piece(int32_t id) const override {
    check_id(id);
    if (processor_.IsControl(id)) return "";
    const std::string& text = processor_.IdToPiece(id);
    if (processor_.IsByte(id)) {  // "<0x0A>"
      return std::string(1, static_cast<char>(std::stoi(text.substr(3, 2), nullptr, 16)));
    }
    return unmark_spaces(text);
  }

  int64_t vocab_size() const override { return processor_.GetPieceSize(); }
  int32_t eod_id() const override { return eod_id_; }
  int32_t mask_id() const override {
    for (const char* name : {"<mask>", "[MASK]"}) {
      if (const int id = processor_.PieceToId(name); id != processor_.unk_id()) return id;
    }
    return processor_.unk_id();
  }
  const std::string& serialized() const override { return serialized_; }

  bool is_divisible() const override { return encoder_ != nullptr && encoder_->is_divisible(); }

  std::vector<TokenizerFile> files() const override {
    if (const std::string obstacle = hf_obstacle(model_); !obstacle.empty()) {
      log::warning("{}: no tokenizer.json can be written that gives the same ids: {}", name_,
                   obstacle);
    }
    std::vector<TokenizerFile> files = hf_files(model_);
    files.insert(files.begin(), {file_name(), serialized_});
    return files;
  }

 private:
  void check_id(int32_t id) const {
    if (id < 0 || id >= processor_.GetPieceSize()) {
      throw DataError("{}: token id {} is not in the vocabulary of {} pieces", name_, id,
                      processor_.GetPieceSize());
    }
  }

  std::string name_;
  std::string serialized_;
  SentencePieceModel model_;
  std::unique_ptr<SentencePieceEncoder> encoder_;    // nullptr: the library encodes
  sentencepiece::SentencePieceProcessor processor_;  // const methods may run in many threads
  int32_t eod_id_ = -1;
};

}  // namespace

std::unique_ptr<Tokenizer> make_sentencepiece_tokenizer(std::string serialized,
                                                        const std::string& name) {
  return std::make_unique<SentencePieceTokenizer>(std::move(serialized), name);
}

}  // namespace locus::data
