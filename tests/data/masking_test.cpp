#include "locus/data/masking.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "locus/base/error.h"
#include "tests/support/expect_error.h"

namespace locus::data {
namespace {

constexpr int32_t kMask = 90, kEod = 0;
constexpr int64_t kVocab = 100;

Batch batch_of(int64_t rows, int64_t length) {
  const auto size = static_cast<size_t>(rows * length);
  Batch batch{.num_sequences = rows,
              .sequence_length = length,
              .input_ids = std::vector<int32_t>(size),
              .labels = std::vector<int32_t>(size, 7),
              .position_ids = std::vector<int32_t>(size),
              .document_ids = std::vector<int32_t>(size),
              .domain_ids = std::vector<int16_t>(size, -1),
              .global_sequence_index = std::vector<int64_t>(static_cast<size_t>(rows))};
  for (size_t i = 0; i < size; ++i) batch.input_ids[i] = static_cast<int32_t>(1 + i % 80);
  return batch;
}

Masking masking_of(double share) {
  return {
      .share = share, .mask_id = kMask, .eod_id = kEod, .vocab_size = kVocab, .begins_word = {}};
}

// Within four standard errors of a share of `count` draws.
void expect_share(int64_t found, double share, int64_t count, const char* what) {
  const auto n = static_cast<double>(count);
  EXPECT_NEAR(static_cast<double>(found) / n, share, 4 * std::sqrt(share * (1 - share) / n))
      << what;
}

TEST(Masking, DrawsItsShareAndShowsEightyTenTen) {
  constexpr int64_t kRows = 200, kLength = 256;
  Batch batch = batch_of(kRows, kLength);
  const std::vector<int32_t> original = batch.input_ids;
  std::vector<uint64_t> keys(kRows);
  std::iota(keys.begin(), keys.end(), uint64_t{5});
  mask_tokens(batch, masking_of(0.15), keys);
  int64_t drawn = 0, masked = 0, same = 0;
  std::map<int32_t, int64_t> replaced;
  for (size_t i = 0; i < original.size(); ++i) {
    if (batch.labels[i] < 0) {
      EXPECT_EQ(batch.input_ids[i], original[i]);
      continue;
    }
    ++drawn;
    EXPECT_EQ(batch.labels[i], original[i]);
    masked += batch.input_ids[i] == kMask;
    same += batch.input_ids[i] == original[i];
    if (batch.input_ids[i] != kMask && batch.input_ids[i] != original[i]) {
      ++replaced[batch.input_ids[i]];
    }
  }
  expect_share(drawn, 0.15, kRows * kLength, "drawn");
  // One of the hundred tokens that may come in its place is the token itself, one the mask.
  expect_share(masked, 0.8 + 0.1 / 100, drawn, "masked");
  expect_share(same, 0.1 + 0.1 / 100, drawn, "same");
  EXPECT_GT(replaced.size(), 95u);
  EXPECT_LT(replaced.rbegin()->first, kVocab);
}

TEST(Masking, IsAFunctionOfTheKeyAlone) {
  Batch batch = batch_of(3, 64);
  mask_tokens(batch, masking_of(0.3), {8, 9, 8});
  const auto row = [&](const std::vector<int32_t>& values, size_t r) {
    return std::vector<int32_t>(values.begin() + static_cast<ptrdiff_t>(64 * r),
                                values.begin() + static_cast<ptrdiff_t>(64 * (r + 1)));
  };
  // The tokens differ from row to row, the places that were drawn with the same key do not.
  const auto places = [&](size_t r) {
    std::vector<bool> out;
    for (const int32_t label : row(batch.labels, r)) out.push_back(label >= 0);
    return out;
  };
  EXPECT_EQ(places(0), places(2));
  EXPECT_NE(places(0), places(1));
  Batch alone = batch_of(1, 64);
  mask_tokens(alone, masking_of(0.3), {8});
  EXPECT_EQ(alone.input_ids, row(batch.input_ids, 0));
}

TEST(Masking, LeavesEndsOfDocumentsAlone) {
  Batch batch = batch_of(1, 100);
  for (size_t i = 0; i < 100; i += 3) batch.input_ids[i] = kEod;
  mask_tokens(batch, masking_of(1.0), {1});
  for (size_t i = 0; i < 100; ++i) {
    EXPECT_EQ(batch.labels[i] < 0, i % 3 == 0) << i;
    if (i % 3 == 0) {
      EXPECT_EQ(batch.input_ids[i], kEod);
    }
  }
}

TEST(Masking, TakesAtLeastOneTokenWhereAsked) {
  for (const bool at_least_one : {false, true}) {
    Batch batch = batch_of(3, 20);
    std::fill(batch.input_ids.begin() + 40, batch.input_ids.end(), kEod);  // nothing to tell
    mask_tokens(batch, masking_of(1e-9), {1, 2, 3}, at_least_one);
    std::vector<int64_t> told(3);
    for (size_t i = 0; i < 60; ++i) told[i / 20] += batch.labels[i] >= 0;
    EXPECT_EQ(told, at_least_one ? (std::vector<int64_t>{1, 1, 0}) : (std::vector<int64_t>(3)));
  }
}

TEST(Masking, RefusesIdsThatTheTokenizerLacks) {
  Batch batch = batch_of(1, 10);
  batch.input_ids[4] = kVocab;
  EXPECT_NE(test::error_of<DataError>([&] {
              mask_tokens(batch, masking_of(0.5), {1});
            }).find("token id 100, but the tokenizer's vocabulary ends at 99"),
            std::string::npos);
}

TEST(Masking, TakesWholeWords) {
  Masking masking = masking_of(0.3);
  masking.begins_word.assign(kVocab, false);
  for (size_t id = 1; id < kVocab; id += 4) masking.begins_word[id] = true;
  Batch batch = batch_of(40, 80);                              // ids 1 to 80: words of four tokens
  for (size_t i = 42; i < 80; ++i) batch.document_ids[i] = 1;  // a document begins within a word
  std::vector<uint64_t> keys(40);
  std::iota(keys.begin(), keys.end(), uint64_t{1});
  mask_tokens(batch, masking, keys);
  int64_t words = 0;
  for (size_t i = 0; i < batch.labels.size(); ++i) {
    const bool begins = i % 4 == 0 || i == 42;
    words += begins && batch.labels[i] >= 0;
    if (!begins) {
      EXPECT_EQ(batch.labels[i] >= 0, batch.labels[i - 1] >= 0) << i;
    }
  }
  expect_share(words, 0.3, 40 * 20 + 1, "words");
}

// Tokens with or without a mask.
class Pieces final : public Tokenizer {
 public:
  explicit Pieces(int32_t mask) : mask_(mask) {}
  std::vector<int32_t> encode(std::string_view) const override { return {}; }
  std::string decode(const std::vector<int32_t>&) const override { return ""; }
  std::string piece(int32_t id) const override {
    return std::vector<std::string>{"", "a", " b", "c", "\n"}.at(static_cast<size_t>(id));
  }
  int64_t vocab_size() const override { return 5; }
  int32_t eod_id() const override { return 0; }
  int32_t mask_id() const override { return mask_; }
  const std::string& serialized() const override { return text_; }

 private:
  int32_t mask_;
  std::string text_;
};

TEST(Masking, KnowsFromTheTokenizerWhereWordsBegin) {
  EXPECT_TRUE(make_masking(Pieces(3), 0.15, false).begins_word.empty());
  const Masking masking = make_masking(Pieces(3), 0.2, true);
  EXPECT_EQ(masking.mask_id, 3);
  EXPECT_EQ(masking.share, 0.2);
  EXPECT_EQ(masking.begins_word, (std::vector<bool>{true, false, true, false, true}));
}

TEST(Masking, NeedsATokenToMaskWith) {
  EXPECT_NE(test::error_of<ConfigError>([] {
              make_masking(Pieces(-1), 0.15, false);
            }).find("no token to mask with"),
            std::string::npos);
}

}  // namespace
}  // namespace locus::data
