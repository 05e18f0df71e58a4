#include "locus/data/indexed_dataset.h"

#include <gtest/gtest.h>

#include <functional>
#include <limits>
#include <numeric>

#include "locus/base/error.h"
#include "tests/data/dataset_files.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_folder.h"

namespace locus::data {
namespace {

using test::DomainFile;
using test::error_of;
using test::IndexFile;
using test::little_endian;
using test::read_bytes;
using test::TempFolder;
using test::write_bytes;

std::vector<int32_t> read_all(const IndexedDataset& dataset) {
  std::vector<int32_t> tokens(static_cast<size_t>(dataset.num_tokens()));
  dataset.read(0, tokens);
  return tokens;
}

// Three documents of 2, 0 and 3 tokens: what a good file looks like, for tests that break one
// thing.
struct Files {
  IndexFile index{.lengths = {2, 0, 3}, .pointers = {0, 4, 4}, .document_indices = {0, 1, 2, 3}};
  DomainFile domains{.num_documents = 3, .names = {"code", "text"}, .domains = {1, 0xffff, 0}};
  std::string tokens = std::string("\1\0\2\0\3\0\4\0\5\0", 10);
  std::string index_tail;
  std::string domains_tail;
};

std::string open_error(const std::function<void(Files&)>& corrupt) {
  const TempFolder folder;
  Files files;
  corrupt(files);
  const std::string prefix = folder / "set";
  write_bytes(prefix + ".idx", files.index.bytes() + files.index_tail);
  write_bytes(prefix + ".bin", files.tokens);
  write_bytes(prefix + ".domains", files.domains.bytes() + files.domains_tail);
  const std::string message = error_of<DataError>([&] { IndexedDataset dataset(prefix); });
  EXPECT_TRUE(message.starts_with(prefix + ".idx: ") || message.starts_with(prefix + ".domains: "))
      << message;
  return message.substr(prefix.size());
}

void expect_part(const std::string& message, const std::string& part) {
  EXPECT_NE(message.find(part), std::string::npos) << message << "\nlacks: " << part;
}

TEST(IndexedDatasetWriter, WritesMegatronsBytes) {
  const TempFolder folder;
  const std::string prefix = folder / "set";
  IndexedDatasetWriter writer(prefix, 1000);
  writer.add_document(std::vector<int32_t>{1, 999}, 1);
  writer.append_tokens(std::vector<int32_t>{7});
  writer.append_tokens(std::vector<int32_t>{8, 9});
  writer.end_document(-1);
  EXPECT_EQ(writer.num_documents(), 2);
  EXPECT_EQ(writer.num_tokens(), 5);
  writer.finish({"code", "text"});

  EXPECT_EQ(read_bytes(prefix + ".bin"), std::string("\1\0\xe7\3\7\0\x8\0\x9\0", 10));
  const char index[] =
      "MMIDIDX\0\0"
      "\1\0\0\0\0\0\0\0"  // version
      "\x8"               // uint16
      "\2\0\0\0\0\0\0\0"  // sequences
      "\3\0\0\0\0\0\0\0"  // document indices
      "\2\0\0\0\3\0\0\0"  // lengths
      "\0\0\0\0\0\0\0\0\4\0\0\0\0\0\0\0"
      "\0\0\0\0\0\0\0\0\1\0\0\0\0\0\0\0\2\0\0\0\0\0\0\0";
  EXPECT_EQ(read_bytes(prefix + ".idx"), std::string(index, sizeof(index) - 1));
  const char domains[] =
      "LOCUSDM1"
      "\2\0\0\0\0\0\0\0"
      "\2\0\0\0"
      "\4\0\0\0code\4\0\0\0text"
      "\1\0\xff\xff";
  EXPECT_EQ(read_bytes(prefix + ".domains"), std::string(domains, sizeof(domains) - 1));
  EXPECT_FALSE(std::filesystem::exists(prefix + ".spool"));
}

TEST(IndexedDatasetWriter, TakesInt32FromMegatronsVocabularyLimitOn) {
  EXPECT_EQ(smallest_token_type(65499), TokenType::kUint16);
  EXPECT_EQ(smallest_token_type(65500), TokenType::kInt32);
  const TempFolder folder;
  const std::string prefix = folder / "set";
  IndexedDatasetWriter writer(prefix, 65500);
  writer.add_document(std::vector<int32_t>{1, 65499}, -1);
  writer.finish({});
  EXPECT_EQ(read_bytes(prefix + ".bin"), std::string("\1\0\0\0\xdb\xff\0\0", 8));
  EXPECT_EQ(read_bytes(prefix + ".idx")[17], '\4');
}

TEST(IndexedDatasetWriter, RemovesWhatItWroteWhenNotFinished) {
  const TempFolder folder;
  {
    IndexedDatasetWriter writer(folder / "set", 100);
    writer.add_document(std::vector<int32_t>{1, 2}, 0);
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(IndexedDatasetWriter, RefusesTokensAndDomainsThatCannotBe) {
  const TempFolder folder;
  IndexedDatasetWriter writer(folder / "set", 100);
  EXPECT_THROW(writer.add_document(std::vector<int32_t>{100}, 0), InternalError);
  EXPECT_THROW(writer.add_document(std::vector<int32_t>{-1}, 0), InternalError);
  writer.add_document(std::vector<int32_t>{99}, 2);
  EXPECT_THROW(writer.finish({"a", "b"}), InternalError);
}

TEST(IndexedDatasetWriter, IsReadBackEqual) {
  const TempFolder folder;
  const std::string prefix = folder / "set";
  std::vector<int32_t> all;
  {
    IndexedDatasetWriter writer(prefix, 70000);
    for (int32_t i = 0; i < 3000; ++i) {
      std::vector<int32_t> tokens(static_cast<size_t>(i % 7));
      std::iota(tokens.begin(), tokens.end(), 20 * i);
      all.insert(all.end(), tokens.begin(), tokens.end());
      writer.add_document(tokens, i % 4 - 1);
    }
    writer.finish({"a", "", "c"});
  }
  const IndexedDataset dataset(prefix, 70000, 1);
  EXPECT_EQ(read_all(dataset), all);
  EXPECT_EQ(dataset.num_documents(), 3000);
  EXPECT_EQ(dataset.domain_names(), (std::vector<std::string>{"a", "", "c"}));
  for (int64_t i = 0; i < 3000; ++i) {
    EXPECT_EQ(dataset.document(i).size(), i % 7);
    EXPECT_EQ(dataset.domain(i), i % 4 - 1);
  }
  EXPECT_EQ(dataset.vocab_size(), 70000);
  EXPECT_EQ(dataset.eod_id(), 1);
}

TEST(IndexedDatasetWriter, WritesAnEmptyDatasetThatOpens) {
  const TempFolder folder;
  IndexedDatasetWriter writer(folder / "set", 100);
  writer.finish({"code"});
  const IndexedDataset dataset(folder / "set");
  EXPECT_EQ(dataset.num_documents(), 0);
  EXPECT_EQ(dataset.num_tokens(), 0);
}

TEST(IndexedDataset, ReadsEveryTokenTypeOfMegatron) {
  const struct {
    uint8_t dtype;
    int bytes;
    const char* name;
  } types[] = {{1, 1, "uint8"}, {2, 1, "int8"},  {3, 2, "int16"},
               {4, 4, "int32"}, {5, 8, "int64"}, {8, 2, "uint16"}};
  for (const auto& type : types) {
    const TempFolder folder;
    test::write_dataset(folder / "set", {{3, 100}, {0, 127, 5}}, {}, {}, type.dtype, type.bytes);
    const IndexedDataset dataset(folder / "set");
    EXPECT_STREQ(token_type_name(dataset.token_type()), type.name);
    EXPECT_EQ(read_all(dataset), (std::vector<int32_t>{3, 100, 0, 127, 5})) << type.name;
    std::vector<int32_t> part(2);
    dataset.read(2, part);
    EXPECT_EQ(part, (std::vector<int32_t>{0, 127})) << type.name;
  }
}

TEST(IndexedDataset, FindsTheDocumentOfEachToken) {
  const TempFolder folder;
  test::write_dataset(folder / "set", {{}, {1, 2}, {}, {}, {3}, {4, 5, 6}, {}});
  const IndexedDataset dataset(folder / "set");
  std::vector<int64_t> documents;
  for (int64_t i = 0; i < dataset.num_tokens(); ++i) documents.push_back(dataset.document_at(i));
  EXPECT_EQ(documents, (std::vector<int64_t>{1, 1, 4, 5, 5, 5}));
  EXPECT_THROW(dataset.document_at(6), InternalError);
}

TEST(IndexedDataset, TakesDocumentsOfSeveralSequences) {
  const TempFolder folder;
  const std::string prefix = folder / "set";
  const IndexFile index{
      .dtype = 1, .lengths = {2, 1, 3}, .pointers = {0, 2, 3}, .document_indices = {0, 2, 3}};
  write_bytes(prefix + ".idx", index.bytes());
  write_bytes(prefix + ".bin", "\1\2\3\4\5\6");
  const IndexedDataset dataset(prefix);
  EXPECT_EQ(dataset.num_documents(), 2);
  EXPECT_EQ(dataset.document(0).end, 3);
  EXPECT_EQ(dataset.document_at(2), 0);
  EXPECT_EQ(dataset.document_at(3), 1);
  EXPECT_FALSE(dataset.has_domains());
  EXPECT_EQ(dataset.domain(1), -1);
}

TEST(IndexedDataset, RefusesTokensOutsideTheVocabularyWhenTheyAreRead) {
  const TempFolder folder;
  const std::string prefix = folder / "set";
  test::write_dataset(prefix, {{5, 6, 99, 100}});
  const IndexedDataset dataset(prefix, 100);
  std::vector<int32_t> good(2);
  dataset.read(1, good);
  EXPECT_EQ(error_of<DataError>([&] { read_all(dataset); }),
            prefix + ".bin: token 3 has the id 100, which is not in [0, 100), the vocabulary");
}

TEST(IndexedDataset, RefusesIdsThatAreNegativeOrBeyond32Bits) {
  const TempFolder folder;
  test::write_dataset(folder / "negative", {{5, -3}}, {}, {}, 4, 4);
  expect_part(error_of<DataError>([&] { read_all(IndexedDataset(folder / "negative")); }),
              "token 1 has the id -3");
  const std::string prefix = folder / "large";
  test::write_dataset(prefix, {{5}}, {}, {}, 5, 8);
  write_bytes(prefix + ".bin", little_endian(uint64_t{1} << 32, 8));
  expect_part(error_of<DataError>([&] { read_all(IndexedDataset(prefix)); }),
              "token 0 has the id 4294967296");
}

TEST(IndexedDataset, ChecksRangesWithoutOverflow) {
  const TempFolder folder;
  test::write_dataset(folder / "set", {{1, 2, 3}});
  const IndexedDataset dataset(folder / "set");
  std::vector<int32_t> out(2);
  EXPECT_THROW(dataset.read(2, out), InternalError);
  EXPECT_THROW(dataset.read(-1, out), InternalError);
  EXPECT_THROW(dataset.read(std::numeric_limits<int64_t>::max(), out), InternalError);
}

TEST(IndexedDataset, RefusesABrokenHeader) {
  const TempFolder folder;
  write_bytes(folder / "set.idx", IndexFile().bytes().substr(0, 33));
  write_bytes(folder / "set.bin", "");
  expect_part(error_of<DataError>([&] { IndexedDataset dataset(folder / "set"); }),
              "33 bytes are too few for the header of 34 bytes");
  write_bytes(folder / "set.idx", "");
  expect_part(error_of<DataError>([&] { IndexedDataset dataset(folder / "set"); }), "0 bytes");

  expect_part(open_error([](Files& f) { f.index.magic[0] = 'm'; }), ".idx: is no Megatron index");
  expect_part(open_error([](Files& f) { f.index.version = 2; }), ".idx: version 2");
  for (const int dtype : {0, 6, 7, 9, 255}) {
    expect_part(open_error([&](Files& f) { f.index.dtype = static_cast<uint8_t>(dtype); }),
                ".idx: dtype code " + std::to_string(dtype));
  }
}

TEST(IndexedDataset, NamesTheMissingFile) {
  const TempFolder folder;
  expect_part(error_of<DataError>([&] { IndexedDataset dataset(folder / "set"); }), "set.idx");
  write_bytes(folder / "set.idx", Files().index.bytes());
  expect_part(error_of<DataError>([&] { IndexedDataset dataset(folder / "set"); }), "set.bin");
}

TEST(IndexedDataset, RefusesCountsThatDisagreeWithTheFile) {
  const std::string part = "do not fit the file's";
  expect_part(open_error([](Files& f) { f.index.num_sequences = 2; }), part);
  expect_part(open_error([](Files& f) { f.index.num_sequences = 4; }), part);
  expect_part(open_error([](Files& f) { f.index.num_document_indices = 3; }), part);
  expect_part(open_error([](Files& f) { f.index.num_document_indices = 5; }), part);
  expect_part(open_error([](Files& f) { f.index_tail += 'x'; }), part);
  // Counts whose sizes in bytes overflow 64 bits: times 12 and times 8 give small numbers.
  expect_part(open_error([](Files& f) { f.index.num_sequences = (int64_t{1} << 62) + 3; }), part);
  expect_part(open_error([](Files& f) { f.index.num_document_indices = (int64_t{1} << 61) + 4; }),
              part);
  expect_part(open_error([](Files& f) {
                f.index.lengths.clear();
                f.index.pointers.clear();
                f.index.document_indices.clear();
              }),
              "holds no document indices");
}

TEST(IndexedDataset, RefusesLengthsAndPointersThatDisagree) {
  expect_part(open_error([](Files& f) {
                f.index.pointers = {0, 4, 6};
              }),
              "sequence 2 is said to begin at byte 6, but those before it end at 4");
  expect_part(open_error([](Files& f) { f.index.pointers[0] = 2; }), "sequence 0 is said to begin");
  expect_part(open_error([](Files& f) { f.index.pointers[1] = -4; }), "begin at byte -4");
  expect_part(open_error([](Files& f) { f.index.lengths[1] = -1; }),
              "sequence 1 has the length -1");
}

TEST(IndexedDataset, RefusesAnIndexThatLiesAboutItsTokenFile) {
  expect_part(open_error([](Files& f) { f.index.lengths[2] = 4; }),
              "sequence 2 ends at byte 12, but ");
  expect_part(open_error([](Files& f) { f.index.lengths[2] = 0x7fffffff; }), "has only 10 bytes");
  expect_part(open_error([](Files& f) { f.tokens.pop_back(); }), "has only 9 bytes");
  expect_part(open_error([](Files& f) { f.tokens.clear(); }), "has only 0 bytes");
  expect_part(open_error([](Files& f) { f.tokens.append(2, 'x'); }),
              "its sequences end at byte 10, but ");
}

TEST(IndexedDataset, RefusesDocumentIndicesThatAreNotMonotone) {
  expect_part(open_error([](Files& f) { f.index.document_indices[0] = 1; }),
              "the first document index is 1 and must be 0");
  expect_part(open_error([](Files& f) {
                f.index.document_indices = {0, 2, 1, 3};
              }),
              "document index 2 is 1, less than the one before, 2");
  expect_part(open_error([](Files& f) { f.index.document_indices[1] = -1; }), "is -1, less than");
  expect_part(open_error([](Files& f) { f.index.document_indices[3] = 4; }),
              "document index 3 is 4, beyond the 3 sequences");
  expect_part(open_error([](Files& f) { f.index.document_indices[3] = 2; }),
              "the last document index is 2 and must be the number of sequences, 3");
}

TEST(IndexedDataset, RefusesABrokenSidecar) {
  expect_part(open_error([](Files& f) { f.domains.magic.back() = '2'; }), "is no domain file");
  expect_part(open_error([](Files& f) { f.domains.num_documents = 4; }),
              ".domains: tells the domains of 4 documents, but ");
  expect_part(open_error([](Files& f) { f.domains.domains.pop_back(); }),
              "4 bytes are left for the domains of 3 documents, which take 6");
  expect_part(open_error([](Files& f) { f.domains_tail += 'x'; }), "7 bytes are left");
  expect_part(open_error([](Files& f) { f.domains.domains[2] = 2; }),
              "document 2 has the domain 2 of 2");
  expect_part(open_error([](Files& f) { f.domains.names[1] = "te\xFFt"; }),
              ".domains: the name of domain 1 is no valid UTF-8");
}

TEST(IndexedDataset, RefusesASidecarCutAnywhere) {
  const TempFolder folder;
  const std::string prefix = folder / "set";
  const Files files;
  write_bytes(prefix + ".idx", files.index.bytes());
  write_bytes(prefix + ".bin", files.tokens);
  const std::string whole = files.domains.bytes();
  for (size_t size = 0; size < whole.size(); ++size) {
    write_bytes(prefix + ".domains", whole.substr(0, size));
    EXPECT_THROW(IndexedDataset dataset(prefix), DataError) << size;
  }
  std::string long_name = whole;
  long_name.replace(20, 4, "\xff\xff\xff\xff");
  write_bytes(prefix + ".domains", long_name);
  expect_part(error_of<DataError>([&] { IndexedDataset dataset(prefix); }),
              "ends within the domain names");
}

}  // namespace
}  // namespace locus::data
