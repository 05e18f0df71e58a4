#include "locus/data/train_tokenizer.h"

#include <gtest/gtest.h>

#include <array>
#include <string>
#include <vector>

#include "locus/base/error.h"
#include "locus/base/random.h"
#include "locus/data/text_sample.h"
#include "locus/data/tokenizer.h"
#include "locus/data/utf8.h"
#include "tests/support/expect_error.h"

namespace locus::data {
namespace {

using test::error_of;

std::string made_up_word(uint64_t number) {
  constexpr std::array<const char*, 8> kSyllables{"ka", "ton", "ri", "mel",
                                                  "os", "ure", "bi", "shan"};
  std::string word;
  for (uint64_t bits = mix_bits(number) % 4096 + 512; bits > 0; bits /= 8)
    word += kSyllables[bits % 8];
  return word;
}

// Text with the structure of code and of prose, so that merges of all kinds are found.
std::string corpus() {
  std::string text;
  for (int i = 0; i < 400; ++i) {
    const std::string n = std::to_string(i * i);
    text += "The quick brown fox number " + n + " jumps over the lazy dog.\r\n";
    for (uint64_t word = 0; word < 4; ++word)
      text += made_up_word(static_cast<uint64_t>(i * i) % 97 + word) + " ";
    text += "\tif (value_" + n + " == " + n + ") {\n        return   other_value;  // why\n\t}\n\n";
  }
  return text;
}

std::vector<std::string> nasty_texts() {
  return {"plain words",
          "",
          " ",
          "   leading and trailing   ",
          "\n",
          "\n\n\n",
          "\t\t\tx\t",
          "a\nb\r\nc\rd\n",
          "tab\tand  two   three    spaces\n        indented\n",
          "emoji \xF0\x9F\x98\x80\xF0\x9F\x91\xA9\xE2\x80\x8D\xF0\x9F\x92\xBB joined",
          "\xE4\xB8\xAD\xE6\x96\x87 \xD1\x80\xD1\x83\xD1\x81 \xC3\xA4 a\xCC\x88 not composed",
          "\xEF\xAC\x81 \xEF\xBC\xA1 \xC2\xA0 \xE3\x80\x80 \xE2\x80\x8B ligature, wide, spaces",
          "<unk></s><s><0x0A> literal markup \\n",
          "0123456789 3.14",
          std::string("nul\0byte", 8),
          "\xEF\xBF\xBD\xE2\x96\x85 replacement and block",
          "The quick brown fox\n\tif (value_16 == 16) {\n"};
}

std::vector<std::string_view> pieces_of(const std::string& text, TextSample* sample) {
  sample->add("x", text);
  return sample->pieces();
}

std::unique_ptr<Tokenizer> train(const std::string& type, int64_t vocab_size) {
  TextSample sample(1 << 20);
  return parse_tokenizer(train_tokenizer(pieces_of(corpus(), &sample), {type, vocab_size}), "test");
}

class TrainTokenizer : public testing::TestWithParam<const char*> {};

TEST_P(TrainTokenizer, GivesBackEveryTextExactly) {
  const auto tokenizer = train(GetParam(), 500);
  for (const std::string& text : nasty_texts()) {
    EXPECT_EQ(tokenizer->decode(tokenizer->encode(text)), text);
  }
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(corpus())), corpus());
}

TEST_P(TrainTokenizer, EncodesPartsAsItEncodesTheWhole) {
  const bool exact = GetParam() == std::string("bpe");
  const auto tokenizer = train(GetParam(), 500);
  const std::string text = corpus().substr(0, 20000);
  const std::vector<int32_t> whole = tokenizer->encode(text);
  for (const size_t part_bytes : {16, 50, 300}) {
    std::vector<int32_t> parts;
    for (size_t begin = 0; begin < text.size();) {
      const auto rest = std::string_view(text).substr(begin);
      const size_t size = part_end(rest, part_bytes);
      // Between characters, the last resort, there is no such promise.
      ASSERT_TRUE(size == rest.size() || rest[size - 1] == '\n' || rest[size] == ' ');
      const auto ids = tokenizer->encode(rest.substr(0, size));
      parts.insert(parts.end(), ids.begin(), ids.end());
      begin += size;
    }
    if (exact) {
      EXPECT_EQ(parts, whole) << part_bytes;
    } else {  // between segmentations of equal probability, rounding decides
      EXPECT_NEAR(static_cast<double>(parts.size()), static_cast<double>(whole.size()),
                  0.01 * static_cast<double>(whole.size()));
      EXPECT_EQ(tokenizer->decode(parts), text);
    }
  }
}

TEST_P(TrainTokenizer, ReachesTheVocabularyAndCompresses) {
  const auto tokenizer = train(GetParam(), 420);
  EXPECT_EQ(tokenizer->vocab_size(), 420);
  EXPECT_LT(tokenizer->encode(corpus()).size(), corpus().size() * 7 / 10);
  EXPECT_EQ(tokenizer->piece(tokenizer->encode("\n")[0]), "\n");
  EXPECT_EQ(tokenizer->encode("\n\t").size(), 2u);
  EXPECT_EQ(tokenizer->encode("123").size(), 3u) << "digits stand alone";
}

TEST_P(TrainTokenizer, MakesASmallerVocabularyOfTextThatGivesNoMore) {
  const auto tokenizer = train(GetParam(), 50000);
  EXPECT_LT(tokenizer->vocab_size(), 5000);
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(corpus())), corpus());
}

TEST_P(TrainTokenizer, TrainsOnTheSmallestText) {
  for (const std::string text :
       {"a", "\n", "\t", "12", "  ", "word word word", "\xF0\x9F\x98\x80"}) {
    TextSample sample(1 << 20);
    const auto pieces = pieces_of(text, &sample);
    const auto tokenizer = parse_tokenizer(train_tokenizer(pieces, {GetParam(), 8192}), "test");
    EXPECT_EQ(tokenizer->decode(tokenizer->encode("any text\n")), "any text\n") << text;
  }
}

TEST_P(TrainTokenizer, NamesTheSmallestPossibleVocabulary) {
  TextSample sample(1 << 20);
  const auto pieces = pieces_of(corpus(), &sample);
  const std::string message = error_of<ConfigError>([&] {
    train_tokenizer(pieces, {GetParam(), 200});
  });
  const std::string at_least =
      "vocab_size = 200 is too small for the characters of this text: at least ";
  ASSERT_EQ(message.find(at_least), 0u) << message;
  const int64_t least = std::stoll(message.substr(at_least.size()));
  EXPECT_THROW(train_tokenizer(pieces, {GetParam(), least - 1}), ConfigError);
  EXPECT_NO_THROW(train_tokenizer(pieces, {GetParam(), least + 5}));
}

TEST_P(TrainTokenizer, GivesTheSameModelEachTime) {
  EXPECT_EQ(train(GetParam(), 420)->serialized(), train(GetParam(), 420)->serialized());
}

TEST_P(TrainTokenizer, PrintsNothingOfTheLibrarysLog) {
  testing::internal::CaptureStderr();
  testing::internal::CaptureStdout();
  train(GetParam(), 420);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "");
  EXPECT_EQ(testing::internal::GetCapturedStdout(), "");
}

INSTANTIATE_TEST_SUITE_P(, TrainTokenizer, testing::Values("bpe", "unigram"),
                         [](const auto& type) { return std::string(type.param); });

TEST(TokenizerTraining, RefusesAnUnknownType) {
  EXPECT_EQ(error_of<ConfigError>([] {
              train_tokenizer({"text"}, {"wordpiece", 1000});
            }),
            "model_type = \"wordpiece\" is not a type of tokenizer; known: bpe, unigram");
}

}  // namespace
}  // namespace locus::data
