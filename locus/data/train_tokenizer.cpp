#include "locus/data/train_tokenizer.h"

#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <charconv>
#include <unordered_map>

#include "locus/base/error.h"
#include "locus/base/log.h"
#include "locus/data/text_sample.h"
#include "locus/data/tokenizers/sentencepiece_model.h"

namespace locus::data {
namespace {

class PieceIterator final : public sentencepiece::SentenceIterator {
 public:
  explicit PieceIterator(const std::vector<std::string_view>& pieces) : pieces_(pieces) { load(); }

  bool done() const override { return next_ > pieces_.size(); }
  void Next() override {
    ++next_;
    load();
  }
  const std::string& value() const override { return value_; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  void load() {
    // The last one is a space: required characters must occur, or SentencePiece ends the process.
    if (!done()) value_ = next_ < pieces_.size() ? pieces_[next_] : " ";
  }

  const std::vector<std::string_view>& pieces_;
  size_t next_ = 0;
  std::string value_;
};

std::unordered_map<std::string, std::string> trainer_options(const TokenizerTraining& settings) {
  return {
      {"model_type", settings.model_type},
      {"vocab_size", std::to_string(settings.vocab_size)},
      {"hard_vocab_limit", "false"},
      {"byte_fallback", "true"},
      {"normalization_rule_name", "identity"},
      {"add_dummy_prefix", "false"},
      {"remove_extra_whitespaces", "false"},
      {"allow_whitespace_only_pieces", "true"},
      {"split_digits", "true"},
      {"user_defined_symbols", "\n,\t"},
      // U+2581: encoded as bytes, it would not come back as a space. The others: those of the names
      // of pieces that are not text, for sentencepiece_files.cpp.
      {"required_chars",
       settings.model_type == "unigram" ? "\xe2\x96\x81<>/0123456789ABCDEFknsux" : "\xe2\x96\x81"},
      {"max_sentence_length", std::to_string(TextSample::kMaxPieceBytes)},
      // Not the number of cores: unigram's sums depend on it, and so would the model.
      {"num_threads", "16"},
      {"minloglevel", "3"},
  };
}

[[noreturn]] void fail(const TokenizerTraining& settings, std::string_view message) {
  // "... Vocabulary size is smaller than required_chars. 150 vs 285. Increase vocab_size or ..."
  constexpr std::string_view kTooSmall = "smaller than required_chars. ";
  const size_t found = message.find(kTooSmall);
  const size_t versus = message.find(" vs ", found == std::string_view::npos ? 0 : found);
  if (found != std::string_view::npos && versus != std::string_view::npos) {
    int64_t least = 0;
    std::from_chars(message.data() + versus + 4, message.data() + message.size(), least);
    throw ConfigError("vocab_size = {} is too small for the characters of this text: at least {}",
                      settings.vocab_size, least);
  }
  throw DataError("no tokenizer can be trained on this text: {}", message);
}

}  // namespace

std::string train_tokenizer(const std::vector<std::string_view>& pieces,
                            const TokenizerTraining& settings) {
  if (settings.model_type != "bpe" && settings.model_type != "unigram") {
    throw ConfigError("model_type = \"{}\" is not a type of tokenizer; known: bpe, unigram",
                      settings.model_type);
  }
  PieceIterator iterator(pieces);
  std::string model;
  const auto status =
      sentencepiece::SentencePieceTrainer::Train(trainer_options(settings), &iterator, &model);
  if (!status.ok()) fail(settings, status.message());

  // With scores in steps of 1/16 the sums of single precision are exact up to 2^20, some 100,000
  // pieces: which of two equally good ways is taken depends neither on the place in the text nor on
  // the precision, and `tokenizers` (double precision) gives the same ids.
  if (settings.model_type == "unigram") model = with_stepped_scores(model);

  sentencepiece::SentencePieceProcessor processor;
  const auto loaded = processor.LoadFromSerializedProto(model);
  LOCUS_CHECK(loaded.ok(), "the trained model does not load: {}", loaded.message());
  if (processor.GetPieceSize() < settings.vocab_size) {
    log::warning(
        "the text gives a vocabulary of {} pieces, not vocab_size = {}: it is too small or "
        "too uniform for more",
        processor.GetPieceSize(), settings.vocab_size);
  }
  return model;
}

}  // namespace locus::data
