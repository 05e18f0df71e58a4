// Our ids beside the library's, on texts that a fixed generator makes.
#include "locus/data/tokenizers/sentencepiece_encoder.h"

#include <gtest/gtest.h>
#include <sentencepiece_processor.h>
#include <sentencepiece_trainer.h>

#include <string>
#include <unordered_map>
#include <vector>

#include "locus/base/error.h"
#include "locus/base/random.h"
#include "locus/data/train_tokenizer.h"
#include "tests/support/expect_error.h"

namespace locus::data {
namespace {

using test::error_of;

class Dice {
 public:
  explicit Dice(uint64_t key) : key_(key) {}
  size_t below(size_t count) { return random_bits(key_, next_++) % count; }

 private:
  uint64_t key_;
  uint64_t next_ = 0;
};

const std::vector<std::string>& fragments() {
  static const std::vector<std::string> all = {"the",
                                               "quick",
                                               "expert",
                                               "token",
                                               "a",
                                               "aa",
                                               "aaa",
                                               "ab",
                                               "abab",
                                               "=",
                                               "====",
                                               "-",
                                               " ",
                                               "  ",
                                               "     ",
                                               "\n",
                                               "\n\n",
                                               "\t",
                                               "\r\n",
                                               "1",
                                               "2026",
                                               "3.14",
                                               "<0x41>",
                                               "<s>",
                                               "</s>",
                                               "<unk>",
                                               "x_y",
                                               "(",
                                               ");",
                                               "\x01",
                                               "the ",
                                               " the",
                                               " a b",
                                               "\xc3\xa9",
                                               "e\xcc\x81",
                                               "\xe2\x96\x81",
                                               "\xe6\x97\xa5\xe6\x9c\xac",
                                               "\xf0\x9f\x98\x80",
                                               "\xd7\xa9\xd7\x9c",
                                               "\xe2\x96\x81\xe2\x96\x81the"};
  return all;
}

std::string random_text(uint64_t key, size_t max_fragments) {
  Dice dice(key);
  std::string text;
  for (size_t n = dice.below(max_fragments); n > 0; --n) {
    const std::string& fragment = fragments()[dice.below(fragments().size())];
    for (size_t times = dice.below(20) == 0 ? dice.below(60) : 1; times > 0; --times) {
      text += fragment;
    }
  }
  return text;
}

std::vector<std::string> corpus() {
  std::vector<std::string> lines;
  for (uint64_t i = 0; i < 400; ++i) lines.push_back(random_text(1000 + i, 30));
  return lines;
}

class Lines final : public sentencepiece::SentenceIterator {
 public:
  explicit Lines(const std::vector<std::string>* lines) : lines_(lines) {}
  bool done() const override { return next_ == lines_->size(); }
  void Next() override { ++next_; }
  const std::string& value() const override { return (*lines_)[next_]; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  const std::vector<std::string>* lines_;
  size_t next_ = 0;
};

using Options = std::unordered_map<std::string, std::string>;

// As the library trains it, scores as they come.
std::string library_model(const Options& changes) {
  Options options = {{"model_type", "bpe"},
                     {"vocab_size", "600"},
                     {"byte_fallback", "true"},
                     {"add_dummy_prefix", "false"},
                     {"minloglevel", "3"},
                     {"remove_extra_whitespaces", "false"},
                     {"normalization_rule_name", "identity"},
                     {"hard_vocab_limit", "false"},
                     {"allow_whitespace_only_pieces", "true"},
                     {"user_defined_symbols", "\n,\t"},
                     {"required_chars", "\xe2\x96\x81"},
                     {"character_coverage", "0.99"}};
  for (const auto& [key, value] : changes) options[key] = value;
  const std::vector<std::string> lines = corpus();
  Lines iterator(&lines);
  std::string model;
  const auto status = sentencepiece::SentencePieceTrainer::Train(options, &iterator, &model);
  EXPECT_TRUE(status.ok()) << status.ToString();
  return model;
}

std::string own_model(const std::string& type) {
  const std::vector<std::string> lines = corpus();
  return train_tokenizer({lines.begin(), lines.end()}, {type, 600});
}

void expect_the_librarys_ids(const std::string& serialized) {
  sentencepiece::SentencePieceProcessor library;
  ASSERT_TRUE(library.LoadFromSerializedProto(serialized).ok());
  const auto encoder = make_sentencepiece_encoder(parse_sentencepiece_model(serialized, "test"));
  ASSERT_NE(encoder, nullptr);
  const auto check = [&](const std::string& text) {
    std::vector<int> ids;
    ASSERT_TRUE(library.Encode(text, &ids).ok());
    ASSERT_EQ(encoder->encode(text), ids) << text.substr(0, 400);
  };
  for (uint64_t i = 0; i < 3000; ++i) check(random_text(i, 40));
  for (uint64_t i = 0; i < 10; ++i) check(random_text(5000 + i, 20000));
  for (const std::string& fragment : fragments()) {
    std::string text;
    for (int i = 0; i < 500; ++i) text += fragment;
    check(text);
  }
}

TEST(SentencePieceEncoder, GivesTheLibrarysIdsForModelsOfLocus) {
  for (const char* type : {"bpe", "unigram"}) {
    SCOPED_TRACE(type);
    expect_the_librarys_ids(own_model(type));
  }
}

TEST(SentencePieceEncoder, GivesTheLibrarysIdsForScoresAsTheyCome) {
  for (const char* type : {"bpe", "unigram"}) {
    for (const char* digits : {"true", "false"}) {
      SCOPED_TRACE(std::string(type) + " split_digits " + digits);
      expect_the_librarys_ids(library_model({{"model_type", type}, {"split_digits", digits}}));
    }
  }
}

TEST(SentencePieceEncoder, SaysWhenPartsOfATextHaveOtherIds) {
  const auto divisible = [](const std::string& serialized) {
    return make_sentencepiece_encoder(parse_sentencepiece_model(serialized, "test"))
        ->is_divisible();
  };
  EXPECT_TRUE(divisible(own_model("bpe")));
  EXPECT_TRUE(divisible(own_model("unigram")));
  EXPECT_TRUE(divisible(library_model({})));
  EXPECT_FALSE(divisible(library_model({{"model_type", "unigram"}})));
}

TEST(SentencePieceEncoder, LeavesOtherModelsToTheLibrary) {
  const std::vector<Options> others = {{{"add_dummy_prefix", "true"}},
                                       {{"remove_extra_whitespaces", "true"}},
                                       {{"normalization_rule_name", "nmt_nfkc"}},
                                       {{"byte_fallback", "false"}},
                                       {{"user_defined_symbols", "expert"}},
                                       {{"split_by_whitespace", "false"}},
                                       {{"model_type", "char"}}};
  for (const Options& other : others) {
    const auto model = parse_sentencepiece_model(library_model(other), "test");
    EXPECT_EQ(make_sentencepiece_encoder(model), nullptr) << other.begin()->first;
  }
}

TEST(SentencePieceModel, NamesAFileThatIsCutOff) {
  const std::string whole = own_model("bpe");
  for (const size_t size : {size_t{1}, size_t{20}, whole.size() / 2}) {
    const std::string part = whole.substr(0, size) + "\xff";
    EXPECT_EQ(error_of<DataError>([&] { parse_sentencepiece_model(part, "m.model"); }),
              "m.model: is no SentencePiece model: it is cut off or damaged");
  }
}

}  // namespace
}  // namespace locus::data
