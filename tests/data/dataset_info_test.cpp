#include "locus/data/dataset_info.h"

#include <gtest/gtest.h>

#include "locus/base/error.h"
#include "locus/data/indexed_dataset.h"
#include "tests/data/dataset_files.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_folder.h"

namespace locus::data {
namespace {

using test::error_of;
using test::TempFolder;
using test::write_bytes;

constexpr const char* kText = R"({
  "version": 1,
  "vocab_size": 100,
  "eod_id": 2,
  "tokenizer": "tokenizer.model",
  "tokenizer_hash": "00112233445566778899aabbccddeeff",
  "domains": [
    "code",
    "text"
  ],
  "splits": {
    "train": {
      "documents": 2,
      "tokens": 5,
      "bytes": 17,
      "by_domain": {
        "code": {
          "documents": 2,
          "tokens": 5,
          "bytes": 17
        }
      }
    },
    "valid": {
      "documents": 0,
      "tokens": 0,
      "bytes": 0,
      "by_domain": {}
    }
  }
}
)";

std::string replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t place = text.find(from);
  EXPECT_NE(place, std::string::npos) << from;
  return text.replace(place, from.size(), to);
}

// A folder as `locus prepare` leaves it, with the text above.
void write_folder(const TempFolder& folder, const std::string& json = kText) {
  write_bytes(folder / "dataset.json", json);
  test::write_dataset(folder / "train", {{7, 2}, {8, 9, 2}}, {"code", "text"}, {0, 0});
  test::write_dataset(folder / "valid", {}, {"code", "text"}, {});
}

TEST(DatasetInfo, IsWrittenInTheDocumentedForm) {
  DatasetInfo info;
  info.vocab_size = 100;
  info.eod_id = 2;
  info.tokenizer_hash = "00112233445566778899aabbccddeeff";
  info.domains = {"code", "text"};
  info.splits["train"] = {{2, 5, 17}, {{"code", {2, 5, 17}}}};
  info.splits["valid"] = {};
  EXPECT_EQ(to_json(info), kText);
}

TEST(DatasetInfo, IsReadBackEqual) {
  const DatasetInfo info = parse_dataset_info("dataset.json", kText);
  EXPECT_EQ(info.vocab_size, 100);
  EXPECT_EQ(info.splits.at("train").by_domain.at("code"), (TextCounts{2, 5, 17}));
  EXPECT_EQ(to_json(info), kText);
}

TEST(DatasetInfo, NamesTheKeyThatIsWrong) {
  const struct {
    const char* from;
    const char* to;
    const char* message;
  } cases[] = {
      {"\"version\": 1", "\"version\": 2", "d.json: version must be an integer in [1, 1]"},
      {"\"vocab_size\": 100", "\"vocab_size\": 0",
       "d.json: vocab_size must be an integer in [1, 2147483648]"},
      {"\"vocab_size\": 100", "\"vocab_size\": 18446744073709551615",
       "d.json: vocab_size must be an integer in [1, 2147483648]"},
      {"\"eod_id\": 2", "\"eod_id\": 100", "d.json: eod_id must be an integer in [0, 99]"},
      {"\"eod_id\": 2", "\"eod\": 2", "d.json: eod_id is missing"},
      {"\"eod_id\": 2", "\"eod_id\": 2.5", "d.json: eod_id must be an integer in [0, 99]"},
      {"\"tokenizer.model\"", "3", "d.json: tokenizer must be a string"},
      {"\"text\"\n", "7\n", "d.json: domains must be an array of strings"},
      {"\"tokens\": 5", "\"tokens\": -5",
       "d.json: splits.train.tokens must be an integer in [0, 1152921504606846976]"},
      {"\"by_domain\": {}", "\"by_domain\": 1", "d.json: splits.valid.by_domain must be an object"},
  };
  for (const auto& c : cases) {
    EXPECT_EQ(
        error_of<DataError>([&] { parse_dataset_info("d.json", replaced(kText, c.from, c.to)); }),
        c.message);
  }
  EXPECT_EQ(error_of<DataError>([] { parse_dataset_info("d.json", "[1]"); }),
            "d.json: the document must be an object");
  EXPECT_TRUE(error_of<DataError>([] {
                parse_dataset_info("d.json", "{\"a\": ");
              }).starts_with("d.json: is no valid JSON: "));
  EXPECT_TRUE(error_of<DataError>([] {
                parse_dataset_info("d.json", replaced(kText, "100", "1e999"));
              }).starts_with("d.json: is no valid JSON: "));
}

TEST(OpenSplit, OpensASplitOfAPreparedFolder) {
  const TempFolder folder;
  write_folder(folder);
  const auto dataset = open_split(folder.path(), "train");
  EXPECT_EQ(dataset->num_tokens(), 5);
  EXPECT_EQ(dataset->vocab_size(), 100);
  EXPECT_EQ(dataset->eod_id(), 2);
  EXPECT_EQ(dataset->domain_names(), (std::vector<std::string>{"code", "text"}));
  EXPECT_EQ(open_split(folder.path(), "valid")->num_documents(), 0);
}

TEST(OpenSplit, OpensAPlainPrefixWithUnknownVocabulary) {
  const TempFolder folder;
  test::write_dataset(folder / "my_text_document", {{70, 2}});
  const auto dataset = open_split(folder / "my_text_document", "train");
  EXPECT_EQ(dataset->num_tokens(), 2);
  EXPECT_EQ(dataset->vocab_size(), 0);
  EXPECT_EQ(dataset->eod_id(), -1);
  EXPECT_TRUE(dataset->domain_names().empty());
}

TEST(OpenSplit, KnowsTheVocabularyOfAPrefixInAPreparedFolder) {
  const TempFolder folder;
  write_folder(folder);
  EXPECT_EQ(open_split(folder / "train", "valid")->vocab_size(), 100);
  test::write_dataset(folder / "other", {{1}});
  EXPECT_EQ(open_split(folder / "other", "train")->vocab_size(), 0);
}

TEST(OpenSplit, SaysWhatItExpected) {
  const TempFolder folder;
  const std::string name = folder.path();
  EXPECT_EQ(error_of<DataError>([&] { open_split(name, "train"); }),
            name +
                ": is a folder without dataset.json; needed: a folder made by `locus prepare`, "
                "or the prefix of a .bin/.idx pair");
  EXPECT_EQ(error_of<DataError>([&] { open_split(name + "/none", "train"); }),
            name +
                "/none: is neither a folder made by `locus prepare` nor the prefix of a "
                ".bin/.idx pair: " +
                name + "/none.idx does not exist");
  write_folder(folder);
  EXPECT_EQ(error_of<DataError>([&] { open_split(name, "test"); }),
            name + "/dataset.json: has no split test; known: train, valid");
}

TEST(OpenSplit, RefusesFilesThatAreNotThoseOfTheDescription) {
  const TempFolder folder;
  const std::string name = folder.path();
  write_folder(folder, replaced(kText, "\"tokens\": 5", "\"tokens\": 6"));
  EXPECT_EQ(error_of<DataError>([&] { open_split(name, "train"); }),
            name +
                "/train.idx: holds 2 documents of 5 tokens together, but dataset.json states 2 "
                "and 6");
  write_folder(folder, replaced(kText, "\"text\"", "\"prose\""));
  EXPECT_EQ(error_of<DataError>([&] { open_split(name, "train"); }),
            name + "/train.domains: its domain names are not those of dataset.json");
  std::filesystem::remove(folder / "train.domains");
  EXPECT_EQ(error_of<DataError>([&] { open_split(name, "train"); }),
            name + "/train.domains: is missing, but dataset.json lists domains");
}

}  // namespace
}  // namespace locus::data
