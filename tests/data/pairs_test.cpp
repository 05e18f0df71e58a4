// Parallel text: read line by line, packed into rows.

#include <gtest/gtest.h>

#include <set>

#include "locus/base/error.h"
#include "locus/data/loader.h"
#include "locus/data/pair_reader.h"
#include "locus/data/pair_rows.h"
#include "tests/data/dataset_files.h"
#include "tests/data/text_files.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_folder.h"

namespace locus::data {
namespace {

using test::Documents;
using test::error_of;
using Ids = std::vector<int32_t>;

constexpr int32_t kEod = 1;

class PairReaderTest : public testing::Test {
 protected:
  std::vector<std::pair<std::string, std::string>> read(const std::string& source,
                                                        const std::string& target) {
    PairReader reader(test::write_text(folder_ / "source", source),
                      test::write_text(folder_ / "target", target));
    std::vector<std::pair<std::string, std::string>> pairs;
    for (TextPair pair; reader.next(&pair);) pairs.emplace_back(pair.source, pair.target);
    num_blank_ = reader.num_blank();
    return pairs;
  }
  test::TempFolder folder_;
  int64_t num_blank_ = 0;
};

TEST_F(PairReaderTest, GivesLinesInStepAndPassesOverBlankOnes) {
  using Pairs = std::vector<std::pair<std::string, std::string>>;
  EXPECT_EQ(read("a b\r\nc\n\n  \nd", "x\ny z\nw\nv\nu\n"),
            (Pairs{{"a b", "x"}, {"c", "y z"}, {"d", "u"}}));
  EXPECT_EQ(num_blank_, 2);
  EXPECT_EQ(read("", ""), Pairs{});
  EXPECT_EQ(read("a\n", "b"), (Pairs{{"a", "b"}}));
}

TEST_F(PairReaderTest, ReadsLongLinesAndPackedFiles) {
  const std::string line(200'000, 'x');
  const auto pairs = read(line + "\nshort\n", "first\nsecond\n");
  ASSERT_EQ(pairs.size(), 2u);
  EXPECT_EQ(pairs[0].first, line);
  EXPECT_EQ(pairs[1], (std::pair<std::string, std::string>{"short", "second"}));
  LineReader packed(test::write_text(folder_ / "packed.gz", test::gzip("one\ntwo\n")));
  std::string text;
  ASSERT_TRUE(packed.next(&text));
  EXPECT_EQ(text, "one");
  ASSERT_TRUE(packed.next(&text));
  EXPECT_EQ(text, "two");
  EXPECT_FALSE(packed.next(&text));
}

TEST_F(PairReaderTest, PassesOverAByteOrderMarkAndRefusesEndlessLines) {
  EXPECT_EQ(read("\xef\xbb\xbf"
                 "a\n",
                 "x\n")
                .front()
                .first,
            "a");
  const std::string endless(LineReader::kMaxLineBytes + 100'000, 'x');
  EXPECT_NE(error_of<DataError>([&] {
              read("a\n" + endless, "x\ny\n");
            }).find("source: line 2 has more than 1048576 bytes"),
            std::string::npos);
}

TEST_F(PairReaderTest, RefusesFilesOfDifferentLengthAndBrokenText) {
  const std::string uneven = error_of<DataError>([&] { read("a\nb\n", "x\ny\nz\n"); });
  EXPECT_NE(uneven.find("source ends after 2 lines, but "), std::string::npos) << uneven;
  const std::string broken = error_of<DataError>([&] { read("a\n\xff\n", "x\ny\n"); });
  EXPECT_NE(broken.find("source: line 2 is not valid UTF-8"), std::string::npos) << broken;
  EXPECT_NE(error_of<DataError>([&] { LineReader(folder_ / "missing"); }).find("missing"),
            std::string::npos);
}

class PairRowsTest : public testing::Test {
 protected:
  std::shared_ptr<const IndexedDataset> dataset(const Documents& documents) {
    const std::string prefix = folder_ / ("set" + std::to_string(next_++));
    test::write_dataset(prefix, documents);
    return std::make_shared<const IndexedDataset>(prefix, 100, kEod, /*has_pairs=*/true);
  }
  static DataConfig config_of(int64_t length) {
    DataConfig config;
    config.sequence_length = length;
    return config;
  }
  test::TempFolder folder_;
  int next_ = 0;
};

// Three pairs in rows of 6 tokens: two fit together, the third opens a row.
const Documents kPairs{{10, 11, kEod},     {20, kEod}, {12, kEod},
                       {21, 22, 23, kEod}, {13, kEod}, {24, kEod}};

TEST_F(PairRowsTest, HoldsAsManyPairsAsFitOnBothSides) {
  const auto set = dataset(kPairs);
  const SampleSource source({set}, {}, config_of(6), 1);
  EXPECT_TRUE(source.has_pairs());
  EXPECT_EQ(source.num_evaluation_sequences(), 2);
  const Batch batch = source.evaluation_batch(0, 2);
  EXPECT_EQ(batch.source_ids, (Ids{10, 11, 1, 12, 1, 1, 13, 1, 1, 1, 1, 1}));
  EXPECT_EQ(batch.source_position_ids, (Ids{0, 1, 2, 0, 1, 0, 0, 1, 0, 1, 2, 3}));
  EXPECT_EQ(batch.source_document_ids, (Ids{0, 0, 0, 1, 1, 2, 0, 0, 1, 1, 1, 1}));
  // A target begins with the end-of-document token and has its own as its last label.
  EXPECT_EQ(batch.input_ids, (Ids{1, 20, 1, 21, 22, 23, 1, 24, 1, 1, 1, 1}));
  EXPECT_EQ(batch.labels, (Ids{20, 1, 21, 22, 23, 1, 24, 1, -1, -1, -1, -1}));
  EXPECT_EQ(batch.position_ids, (Ids{0, 1, 0, 1, 2, 3, 0, 1, 0, 1, 2, 3}));
  EXPECT_EQ(batch.document_ids, (Ids{0, 0, 1, 1, 1, 1, 0, 0, 1, 1, 1, 1}));
}

TEST_F(PairRowsTest, LeavesOutPairsLongerThanARow) {
  const auto set = dataset(kPairs);
  const PairRows rows(*set, 3);
  EXPECT_EQ(rows.num_left_out(), 1);
  EXPECT_EQ(rows.num_rows(), 2);
  const SampleSource none({set}, {}, config_of(1), 1);
  EXPECT_NE(error_of<ConfigError>([&] {
              none.check_trainable();
            }).find("holds no pair that fits in data.sequence_length = 1"),
            std::string::npos);
}

TEST_F(PairRowsTest, FillsEarlierRowsThatStillHaveRoom) {
  // Of 4 and 4 tokens, 4 and 4, then 2 and 2 that fit behind the first pair.
  const auto set = dataset({{10, 11, 12, kEod},
                            {20, 21, 22, kEod},
                            {13, 14, 15, kEod},
                            {23, 24, 25, kEod},
                            {16, kEod},
                            {26, kEod}});
  const SampleSource source({set}, {}, config_of(6), 1);
  EXPECT_EQ(source.num_evaluation_sequences(), 2);
  EXPECT_EQ(source.evaluation_batch(0, 1).source_ids, (Ids{10, 11, 12, 1, 16, 1}));
}

TEST_F(PairRowsTest, RefusesATextWithoutTokens) {
  EXPECT_NE(error_of<DataError>([&] {
              PairRows(*dataset({{10, kEod}, {}}), 6);
            }).find("pair 0 has a text without tokens"),
            std::string::npos);
}

TEST_F(PairRowsTest, TrainsOnEveryRowOnceAnEpoch) {
  Documents documents;
  for (int32_t pair = 0; pair < 7; ++pair) {
    documents.push_back({10 + pair, kEod});
    documents.push_back({30 + pair, kEod});
  }
  const SampleSource source({dataset(documents)}, {}, config_of(3), 4);
  source.check_trainable();
  for (int64_t epoch = 0; epoch < 3; ++epoch) {
    const Batch batch = source.training_batch(7 * epoch, 7);
    std::set<int32_t> seen;
    for (size_t row = 0; row < 7; ++row) {
      seen.insert(batch.source_ids[3 * row]);
      EXPECT_EQ(batch.labels[3 * row], batch.source_ids[3 * row] + 20);
    }
    EXPECT_EQ(seen.size(), 7u);
  }
  EXPECT_TRUE(source.tokens_by_domain(0, 2).front().empty());
}

TEST_F(PairRowsTest, CannotBeMixedWithOtherData) {
  const std::string prefix = folder_ / "plain";
  test::write_dataset(prefix, kPairs);
  const auto plain = std::make_shared<const IndexedDataset>(prefix, 100, kEod);
  EXPECT_NE(error_of<ConfigError>([&] {
              SampleSource({dataset(kPairs), plain}, {}, config_of(6), 1);
            }).find("holds pairs, the other does not"),
            std::string::npos);
  test::write_dataset(folder_ / "odd", {{5, kEod}});
  EXPECT_NE(error_of<DataError>([&] {
              IndexedDataset(folder_ / "odd", 100, kEod, true);
            }).find("an odd number"),
            std::string::npos);
}

TEST_F(PairRowsTest, MasksAnEncodersTokensAnewEachTimeAndTheSameInEvaluation) {
  const std::string prefix = folder_ / "text";
  Ids document;
  for (int32_t i = 0; i < 64; ++i) document.push_back(10 + i);
  test::write_dataset(prefix, {document});
  const Masking masking{
      .share = 0.5, .mask_id = 9, .eod_id = kEod, .vocab_size = 100, .begins_word = {}};
  const SampleSource source({std::make_shared<const IndexedDataset>(prefix, 100, kEod)}, {},
                            config_of(32), 4, masking);
  const Batch first = source.training_batch(0, 3);  // an epoch has one window
  const auto labels = [&](size_t row) {
    return Ids(first.labels.begin() + static_cast<ptrdiff_t>(32 * row),
               first.labels.begin() + static_cast<ptrdiff_t>(32 * (row + 1)));
  };
  const auto drawn = [](const Ids& row) {
    std::vector<bool> out;
    for (const int32_t label : row) out.push_back(label >= 0);
    return out;
  };
  EXPECT_NE(drawn(labels(0)), drawn(labels(1)));
  EXPECT_EQ(source.training_batch(1, 1).labels, labels(1)) << "whoever asks for it";
  // In evaluation the masks are those of the place, whoever asks and whatever the seed.
  const Batch both = source.evaluation_batch(0, 2);
  const SampleSource reseeded({std::make_shared<const IndexedDataset>(prefix, 100, kEod)}, {},
                              config_of(32), 5, masking);
  EXPECT_EQ(reseeded.evaluation_batch(1, 1).labels,
            Ids(both.labels.begin() + 32, both.labels.end()));
  EXPECT_NE(drawn(source.evaluation_batch(0, 1).labels), drawn(labels(0)));
}

}  // namespace
}  // namespace locus::data
