#include "locus/data/tokenizer.h"

#include <gtest/gtest.h>
#include <sentencepiece_trainer.h>

#include <thread>
#include <unordered_map>

#include "locus/base/error.h"
#include "tests/data/dataset_files.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_folder.h"

namespace locus::data {
namespace {

using test::error_of;

using Options = std::unordered_map<std::string, std::string>;

class Sentences final : public sentencepiece::SentenceIterator {
 public:
  explicit Sentences(std::vector<std::string> all) : all_(std::move(all)) {}
  bool done() const override { return next_ == all_.size(); }
  void Next() override { ++next_; }
  const std::string& value() const override { return all_[next_]; }
  sentencepiece::util::Status status() const override { return {}; }

 private:
  std::vector<std::string> all_;
  size_t next_ = 0;
};

// A model as `locus prepare` trains them, unless an option says otherwise.
std::string train_model(const Options& changes = {}) {
  Options options = {{"model_type", "bpe"},
                     {"vocab_size", "400"},
                     {"byte_fallback", "true"},
                     {"add_dummy_prefix", "false"},
                     {"remove_extra_whitespaces", "false"},
                     {"normalization_rule_name", "identity"},
                     {"hard_vocab_limit", "false"},
                     {"num_threads", "1"},
                     {"minloglevel", "2"}};
  for (const auto& [key, value] : changes) options[key] = value;
  std::vector<std::string> sentences;
  for (int i = 0; i < 40; ++i) {
    const std::string number = std::to_string(i * 7919);
    sentences.push_back("the quick brown fox " + number + " jumps over the lazy dog");
    sentences.push_back("for (int i = 0; i < " + number + "; ++i) sum += values[i];");
  }
  Sentences iterator(std::move(sentences));
  std::string serialized;
  const auto status = sentencepiece::SentencePieceTrainer::Train(options, &iterator, &serialized);
  EXPECT_TRUE(status.ok()) << status.ToString();
  return serialized;
}

const Tokenizer& tokenizer() {
  static const auto shared = parse_tokenizer(train_model(), "test.model");
  return *shared;
}

const std::vector<std::string>& texts() {
  static const std::vector<std::string> all = {
      "",
      " ",
      "   ",
      "the quick brown fox",
      " leading",
      "    four leading, two trailing  ",
      "two  in  the middle",
      "\n",
      "\n\n\nlines\n  indented\r\n",
      "\ttab\tbetween\t",
      "caf\xc3\xa9 \xe2\x82\xac \xf0\x9f\x98\x80 \xe6\x97\xa5\xe6\x9c\xac\xe8\xaa\x9e",
      "e\xcc\x81 \xef\xac\x81 \xef\xbc\xa1 \xe2\x84\xab",  // what NFKC would change
      "</s> <s> <unk> <0x0A>",
      "\x01\x02\x7f",
      std::string("a\0b", 3),
  };
  return all;
}

TEST(Tokenizer, DecodesWhatItEncodedExactly) {
  for (const std::string& text : texts()) {
    EXPECT_EQ(tokenizer().decode(tokenizer().encode(text)), text);
  }
}

TEST(Tokenizer, JoinsPiecesToTheText) {
  for (const std::string& text : texts()) {
    std::string joined;
    for (const int32_t id : tokenizer().encode(text)) joined += tokenizer().piece(id);
    EXPECT_EQ(joined, text);
  }
}

TEST(Tokenizer, EncodesLearntWordsIntoFewTokens) {
  EXPECT_LE(tokenizer().encode("the quick brown fox").size(), 8u);
  EXPECT_GE(tokenizer().vocab_size(), 260);
  for (const int32_t id : tokenizer().encode("text for any range \xff")) {
    EXPECT_GE(id, 0);
    EXPECT_LT(id, tokenizer().vocab_size());
  }
}

TEST(Tokenizer, NeverProducesTheEndTokenFromText) {
  for (const int32_t id : tokenizer().encode("</s>")) EXPECT_NE(id, tokenizer().eod_id());
  EXPECT_EQ(tokenizer().piece(tokenizer().eod_id()), "");
  EXPECT_EQ(tokenizer().decode({tokenizer().eod_id()}), "");
}

TEST(Tokenizer, EncodesAlikeFromManyThreads) {
  const std::string text = "the lazy dog sums values[i] over 12345 \xe2\x82\xac\n";
  const std::vector<int32_t> expected = tokenizer().encode(text);
  std::vector<int> wrong(4, 0);
  std::vector<std::thread> threads;
  for (int& count : wrong) {
    threads.emplace_back([&] {
      for (int i = 0; i < 300; ++i) count += tokenizer().encode(text) != expected;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4, 0));
}

TEST(Tokenizer, EndsDocumentsWithEosElseBos) {
  const auto usual = parse_tokenizer(train_model({{"bos_id", "1"}, {"eos_id", "2"}}), "m");
  EXPECT_EQ(usual->eod_id(), 2);
  const auto without_eos = parse_tokenizer(train_model({{"bos_id", "1"}, {"eos_id", "-1"}}), "m");
  EXPECT_EQ(without_eos->eod_id(), 1);
  const std::string neither = train_model({{"bos_id", "-1"}, {"eos_id", "-1"}});
  EXPECT_EQ(error_of<DataError>([&] { parse_tokenizer(neither, "my.model"); }),
            "my.model: the model has neither an end-of-sentence nor a begin-of-sentence piece; "
            "one of them must end each document");
}

TEST(Tokenizer, KeepsTheModelFile) {
  const test::TempFolder folder;
  const std::string path = folder / "tokenizer.model";
  test::write_bytes(path, tokenizer().serialized());
  const auto loaded = load_tokenizer(path);
  EXPECT_EQ(loaded->serialized(), tokenizer().serialized());
  EXPECT_EQ(loaded->encode("lazy dog"), tokenizer().encode("lazy dog"));
}

TEST(Tokenizer, RefusesWhatIsNoModel) {
  const test::TempFolder folder;
  const std::string path = folder / "tokenizer.model";
  EXPECT_NE(error_of<DataError>([&] { load_tokenizer(path); }).find(path), std::string::npos);
  for (const std::string& bytes :
       {std::string(), std::string("not a model"), std::string(1000, '\xff'),
        tokenizer().serialized().substr(0, tokenizer().serialized().size() / 2 + 1)}) {
    test::write_bytes(path, bytes);
    const std::string message = error_of<DataError>([&] { load_tokenizer(path); });
    EXPECT_TRUE(message.starts_with(path + ": is no SentencePiece model: ")) << message;
  }
}

TEST(Tokenizer, RefusesIdsOutsideTheVocabulary) {
  const auto size = static_cast<int32_t>(tokenizer().vocab_size());
  EXPECT_THROW(tokenizer().piece(size), DataError);
  EXPECT_THROW(tokenizer().piece(-1), DataError);
  EXPECT_THROW(tokenizer().decode({0, size}), DataError);
}

}  // namespace
}  // namespace locus::data
