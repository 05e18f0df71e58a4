// A tokenizer.json small enough to check by hand, and what is wrong with others. Equality with the
// `tokenizers` package is tests/tokenizers/hf_test.py.
#include "locus/data/tokenizers/hf_tokenizer.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "locus/base/error.h"
#include "locus/base/file.h"
#include "locus/data/preprocess.h"
#include "locus/data/tokenizers/tokenizer_files.h"
#include "locus/data/train_tokenizer.h"
#include "tests/data/text_files.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_folder.h"

namespace locus::data {
namespace {

using nlohmann::json;
using test::error_of;
using test::TempFolder;
using test::write_text;

// Letters and two merges behind GPT-2's words; U+0120 is the space.
json small() {
  return json::parse(R"({
    "version": "1.0", "truncation": null, "padding": null,
    "added_tokens": [{"id": 7, "content": "<|endoftext|>", "single_word": false, "lstrip": false,
                      "rstrip": false, "normalized": false, "special": true}],
    "normalizer": null,
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
    "post_processor": {"type": "ByteLevel"},
    "decoder": {"type": "ByteLevel"},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "c": 2, "\u0120": 3, "ab": 4, "\u0120ab": 5,
                                       "\u00c3\u00a9": 6},
              "merges": ["a b", ["\u0120", "ab"]]}})");
}

std::unique_ptr<Tokenizer> parse(const json& file) {
  return parse_tokenizer(file.dump(), "m/tokenizer.json");
}

std::string refusal(const json& file) {
  return error_of<DataError>([&] { parse(file); });
}

std::string refusal(const std::string& place, const json& value) {
  json file = small();
  file[json::json_pointer(place)] = value;
  return refusal(file);
}

using Ids = std::vector<int32_t>;

TEST(HfTokenizer, MergesInTheOrderOfTheListWithinWords) {
  const auto tokenizer = parse(small());
  EXPECT_EQ(tokenizer->encode("ab ab"), (Ids{4, 5}));
  EXPECT_EQ(tokenizer->encode("ba  ab"), (Ids{1, 0, 3, 5}));
  EXPECT_EQ(tokenizer->encode(""), Ids{});
  EXPECT_EQ(tokenizer->decode({4, 5}), "ab ab");
  EXPECT_EQ(tokenizer->vocab_size(), 8);
}

TEST(HfTokenizer, FindsSpecialTokensInTextAndLeavesThemOutOfIt) {
  const auto tokenizer = parse(small());
  EXPECT_EQ(tokenizer->encode("ab<|endoftext|>c"), (Ids{4, 7, 2}));
  EXPECT_EQ(tokenizer->decode({4, 7, 2}), "abc");
  EXPECT_EQ(tokenizer->piece(7), "");
  EXPECT_EQ(tokenizer->piece(5), " ab");
  EXPECT_EQ(tokenizer->eod_id(), 7);
}

TEST(HfTokenizer, RepairsTextThatIsNotUtf8) {
  json file = small();
  file["model"]["unk_token"] = "c";
  EXPECT_EQ(parse(file)->encode("a\xff"), (Ids{0, 2, 2, 2}));  // U+FFFD has three bytes
}

TEST(HfTokenizer, GivesTheSameForWordsShortAndLong) {
  const auto tokenizer = parse(small());
  for (const size_t count : {1u, 23u, 24u, 25u, 60u, 61u, 500u}) {
    std::string text;
    for (size_t i = 0; i < count; ++i) text += "ab";
    EXPECT_EQ(tokenizer->encode(text), Ids(count, 4)) << count;
    EXPECT_EQ(tokenizer->encode(text), Ids(count, 4)) << count << " the second time";
  }
}

TEST(HfTokenizer, RefusesIdsOutsideTheVocabulary) {
  const auto tokenizer = parse(small());
  EXPECT_EQ(error_of<DataError>([&] { tokenizer->decode({8}); }),
            "m/tokenizer.json: token id 8 is not in the vocabulary of 8 pieces");
  error_of<DataError>([&] { tokenizer->piece(-1); });
}

TEST(HfTokenizer, TakesTheEndTokenFromTheConfiguration) {
  const TempFolder folder;
  write_text(folder / "tokenizer.json", small().dump());
  const auto eod = [&](const std::string& config) {
    write_text(folder / "tokenizer_config.json", config);
    return load_tokenizer(folder.path().string())->eod_id();
  };
  EXPECT_EQ(eod(R"({"eos_token": "c"})"), 2);
  EXPECT_EQ(eod(R"({"eos_token": {"content": "b", "lstrip": false}})"), 1);
  EXPECT_EQ(eod(R"({"eos_token": null})"), 7);
  EXPECT_EQ(error_of<DataError>([&] { eod(R"({"eos_token": "</s>"})"); }),
            (folder / "tokenizer_config.json").string() +
                ": eos_token = \"</s>\" is not in the vocabulary of " +
                (folder / "tokenizer.json").string());
}

TEST(HfTokenizer, SaysThatThereIsNoEndToken) {
  EXPECT_EQ(refusal("/added_tokens/0/content", "<|other|>"),
            "m/tokenizer.json: names no end-of-text token; set eos_token in the "
            "tokenizer_config.json beside it");
}

TEST(HfTokenizer, NamesWhatIsNotSupported) {
  EXPECT_EQ(refusal("/model/type", "WordPiece"),
            "m/tokenizer.json: model: the type \"WordPiece\" is not supported (BPE is)");
  EXPECT_EQ(refusal("/model/dropout", 0.1),
            "m/tokenizer.json: model: dropout (ids by chance) is not supported");
  EXPECT_EQ(refusal("/normalizer", {{"type", "BertNormalizer"}}),
            "m/tokenizer.json: normalizer: the type \"BertNormalizer\" is not supported");
  EXPECT_EQ(refusal("/pre_tokenizer", {{"type", "UnicodeScripts"}}),
            "m/tokenizer.json: pre_tokenizer: the type \"UnicodeScripts\" is not supported");
  EXPECT_EQ(refusal("/decoder", {{"type", "CTC"}}),
            "m/tokenizer.json: decoder: the type \"CTC\" is not supported");
  EXPECT_EQ(refusal("/model/end_of_word_suffix", "</w>"),
            "m/tokenizer.json: model: end_of_word_suffix is not supported");
}

TEST(HfTokenizer, NamesThePatternThatMeansSomethingElseElsewhere) {
  const auto pattern = [](const std::string& text) {
    return refusal("/pre_tokenizer", {{"type", "Split"},
                                      {"pattern", {{"Regex", text}}},
                                      {"behavior", "Isolated"},
                                      {"invert", false}});
  };
  EXPECT_EQ(
      pattern("a|^b"),
      "m/tokenizer.json: pre_tokenizer.pattern.Regex: the anchor \"^\" at byte 2 of the pattern "
      "\"a|^b\" is not supported");
  for (const char* text : {"\\h", "[a[bc]]", "[a&&b]", "(?i:ss)", "(?<n>a)", "\\1", "a{2}+",
                           "\\p{Foo}", "(a", "a)", "[a", "\\"}) {
    EXPECT_NE(pattern(text).find("is not supported"), std::string::npos) << text;
  }
  EXPECT_NE(pattern("*").find("is broken at its byte"), std::string::npos);
}

TEST(HfTokenizer, NamesBrokenParts) {
  EXPECT_EQ(refusal("/model/merges/0", "a x"),
            "m/tokenizer.json: model.merges[0] needs the token \"x\", which is not in model.vocab");
  EXPECT_EQ(
      refusal("/model/merges/1", json::array({"b", "a"})),
      "m/tokenizer.json: model.merges[1] needs the token \"ba\", which is not in model.vocab");
  EXPECT_EQ(
      refusal("/model/merges/0", "ab"),
      "m/tokenizer.json: model.merges[0] = \"ab\" must be two tokens with a space between them");
  EXPECT_EQ(refusal("/model/merges/0", 3),
            "m/tokenizer.json: model.merges[0] must be a string, is a number");
  EXPECT_EQ(refusal("/model/vocab/a", 1),
            "m/tokenizer.json: model.vocab and added_tokens: \"a\" and \"b\" have the same id 1");
  EXPECT_EQ(refusal("/model/vocab/a", -1),
            "m/tokenizer.json: model.vocab.a = -1: an id must be at least 0 and below 2^31");
  EXPECT_NE(refusal("/model/vocab/a", 9).find("ids with holes"), std::string::npos);
  EXPECT_EQ(refusal("/model/vocab/a", "x"),
            "m/tokenizer.json: model.vocab.a must be an integer, is a string");
  EXPECT_EQ(refusal("/model/vocab", json::array()),
            "m/tokenizer.json: model.vocab must be an object, is an array");
  EXPECT_EQ(refusal("/model/unk_token", "<unk>"),
            "m/tokenizer.json: model.unk_token is not in model.vocab");
  EXPECT_EQ(refusal("/added_tokens/0", {{"id", 3}, {"content", "a"}}),
            "m/tokenizer.json: added_tokens: \"a\" has the id 3 here and 0 elsewhere");
  json without = small();
  without.erase("model");
  EXPECT_EQ(
      refusal(without),
      "m/tokenizer.json: the file is neither a SentencePiece model nor a tokenizer.json: it has no "
      "\"model\"");
}

TEST(HfTokenizer, NamesFilesThatAreCutOffOrNestedWithoutEnd) {
  const std::string whole = small().dump();
  for (size_t size = 1; size < whole.size(); size += 7) {
    const std::string message =
        error_of<DataError>([&] { parse_tokenizer(whole.substr(0, size), "m/tokenizer.json"); });
    EXPECT_TRUE(message.starts_with("m/tokenizer.json: is no JSON: ")) << message;
  }
  const std::string deep = "{\"model\": " + std::string(200000, '[');
  error_of<DataError>([&] { parse_tokenizer(deep, "m/tokenizer.json"); });
  json step = {{"type", "NFC"}};
  for (int i = 0; i < 200; ++i) {
    step = {{"type", "Sequence"}, {"normalizers", json::array({step})}};
  }
  EXPECT_NE(refusal("/normalizer", step).find("a sequence nested so deep is not supported"),
            std::string::npos);
}

TEST(TokenizerFiles, AreTheOriginalsOfAnImportedTokenizer) {
  const TempFolder folder;
  const std::string content = small().dump(3);
  write_text(folder / "tokenizer.json", content);
  write_text(folder / "tokenizer_config.json", "{\"eos_token\": \"c\"}");
  write_text(folder / "chat_template.jinja", "{{ x }}");
  const auto tokenizer = load_folder_tokenizer(folder.path());
  const auto files = tokenizer_files(*tokenizer);
  ASSERT_EQ(files.size(), 3u);
  EXPECT_EQ(files[0].name, "tokenizer.json");
  EXPECT_EQ(files[0].content, content);
  EXPECT_EQ(files[1].content, "{\"eos_token\": \"c\"}");
  EXPECT_EQ(files[2].name, "chat_template.jinja");
}

TEST(TokenizerFiles, OfASentencePieceModelLeadBackToIt) {
  const std::string text = "the quick brown fox jumps over the lazy dog\n";
  for (const char* type : {"bpe", "unigram"}) {
    const TempFolder folder;
    const std::vector<std::string_view> pieces(20, text);
    const std::string model = train_tokenizer(pieces, {type, 350});
    for (const auto& file : tokenizer_files(*parse_tokenizer(model, "x"))) {
      write_text(folder / file.name, file.content);
    }
    EXPECT_EQ(load_folder_tokenizer(folder.path())->serialized(), model);
    EXPECT_TRUE(fs::exists(folder / "tokenizer.json"));
    EXPECT_TRUE(fs::exists(folder / "special_tokens_map.json"));
  }
}

TEST(TokenizerFiles, AreNotThereInAnEmptyFolder) {
  const TempFolder folder;
  EXPECT_EQ(load_folder_tokenizer(folder.path()), nullptr);
  EXPECT_EQ(error_of<DataError>([&] { load_tokenizer(folder.path().string()); }),
            folder.path().string() + ": holds neither tokenizer.json nor tokenizer.model");
}

TEST(Prepare, TakesAnImportedTokenizerWithItsConfiguration) {
  const TempFolder folder;
  write_text(folder / "model/tokenizer.json", small().dump());
  write_text(folder / "model/tokenizer_config.json", "{\"eos_token\": \"c\"}");
  write_text(folder / "text.jsonl", "{\"text\": \"ab ab\"}\n{\"text\": \"ba\"}\n");
  for (const char* name : {"model", "model/tokenizer.json"}) {
    PrepareConfig config;
    config.inputs = {(folder / "text.jsonl").string()};
    config.output = (folder / "data").string();
    config.tokenizer = (folder / name).string();
    config.valid_share = config.test_share = 0;
    config.overwrite = true;
    const PrepareResult result = prepare(config, ProgressBar::Style::kSilent);
    EXPECT_EQ(result.total().tokens, 6);
    EXPECT_EQ(result.info.tokenizer, "tokenizer.json");
    EXPECT_EQ(result.info.eod_id, 2);
    EXPECT_EQ(load_tokenizer((folder / "data/tokenizer.json").string())->eod_id(), 2);
  }
}

}  // namespace
}  // namespace locus::data
