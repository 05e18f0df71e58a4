#include "locus/data/text_sample.h"

#include <gtest/gtest.h>

#include <string>

#include "locus/data/utf8.h"

namespace locus::data {
namespace {

std::string numbered_lines(const std::string& word, int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += word + " line number " + std::to_string(i) + "\n";
  return text;
}

TEST(TextSample, KeepsAllOfASmallCorpus) {
  TextSample sample(1 << 20);
  const std::string text = numbered_lines("a", 1000);
  sample.add("x", text);
  EXPECT_EQ(sample.num_bytes(), static_cast<int64_t>(text.size()));
  size_t num_bytes = 0;
  for (const std::string_view piece : sample.pieces()) {
    EXPECT_LE(piece.size(), TextSample::kMaxPieceBytes);
    EXPECT_TRUE(piece.ends_with("\n"));
    num_bytes += piece.size();
  }
  EXPECT_EQ(num_bytes, text.size());
}

TEST(TextSample, GivesDomainsEqualSharesExceptThoseThatHaveLess) {
  constexpr int64_t kBytes = 300000;
  TextSample sample(kBytes);
  sample.add("large", numbered_lines("large", 100000));
  sample.add("small", numbered_lines("small", 1000));
  sample.add("middle", numbered_lines("middle", 20000));
  const auto bytes = sample.bytes_by_domain();
  EXPECT_LE(sample.num_bytes(), kBytes);
  EXPECT_GT(sample.num_bytes(), kBytes - 4096);
  EXPECT_EQ(bytes.at("small"), static_cast<int64_t>(numbered_lines("small", 1000).size()));
  EXPECT_NEAR(static_cast<double>(bytes.at("large")), static_cast<double>(bytes.at("middle")),
              4096);
}

TEST(TextSample, SpreadsOverTheWholeCorpus) {
  TextSample sample(50000);
  sample.add("x", numbered_lines("a", 50000));
  sample.add("x", numbered_lines("b", 50000));
  int64_t from_first = 0;
  for (const std::string_view piece : sample.pieces()) from_first += piece.starts_with("a");
  const auto num_pieces = static_cast<double>(sample.pieces().size());
  EXPECT_GT(static_cast<double>(from_first), 0.2 * num_pieces);
  EXPECT_LT(static_cast<double>(from_first), 0.8 * num_pieces);
}

TEST(TextSample, DoesNotDependOnTheOrderOfDocumentsOfADomain) {
  TextSample one(20000), other(20000);
  one.add("x", numbered_lines("a", 5000));
  one.add("x", numbered_lines("b", 5000));
  other.add("x", numbered_lines("b", 5000));
  other.add("x", numbered_lines("a", 5000));
  EXPECT_EQ(one.pieces(), other.pieces());
}

TEST(TextSample, CountsRecurringTextOnce) {
  TextSample sample(1 << 20);
  for (int i = 0; i < 10; ++i) sample.add("x", "the same licence\n");
  EXPECT_EQ(sample.pieces().size(), 1u);
}

TEST(TextSample, CutsLongLinesBetweenCharacters) {
  TextSample sample(1 << 20);
  std::string text;
  for (int i = 0; i < 3000; ++i) text += "\xE2\x82\xAC";
  sample.add("x", text);
  for (const std::string_view piece : sample.pieces()) {
    EXPECT_EQ(valid_utf8_prefix(piece), piece.size());
  }
}

}  // namespace
}  // namespace locus::data
