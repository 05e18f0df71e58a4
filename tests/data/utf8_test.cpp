#include "locus/data/utf8.h"

#include <gtest/gtest.h>

#include <string>

namespace locus::data {
namespace {

TEST(Utf8, AcceptsEveryCodePointAndNothingElse) {
  for (uint32_t code = 0; code < 0x110000; ++code) {
    const auto tail = [code](int shift) {
      return static_cast<char>(0x80 | ((code >> shift) & 0x3F));
    };
    std::string text;
    if (code < 0x80) {
      text += static_cast<char>(code);
    } else if (code < 0x800) {
      text += static_cast<char>(0xC0 | (code >> 6));
    } else if (code < 0x10000) {
      text += static_cast<char>(0xE0 | (code >> 12));
      text += tail(6);
    } else {
      text += static_cast<char>(0xF0 | (code >> 18));
      text += tail(12);
      text += tail(6);
    }
    if (code >= 0x80) text += tail(0);
    const bool surrogate = code >= 0xD800 && code < 0xE000;
    ASSERT_EQ(valid_utf8_prefix(text), surrogate ? 0 : text.size()) << code;
  }
}

TEST(Utf8, FindsTheFirstMalformedSequence) {
  const std::string good = "0123456789 \xC3\xA4\xE2\x82\xAC\xF0\x9F\x98\x80 abcdefgh";
  EXPECT_EQ(valid_utf8_prefix(good), good.size());
  for (const char* bad :
       {"\x80", "\xBF", "\xC0\x80", "\xC1\xBF", "\xC3", "\xE0\x80\x80", "\xE2\x82", "\xED\xA0\x80",
        "\xF0\x80\x80\x80", "\xF0\x9F\x98", "\xF4\x90\x80\x80", "\xF5\x80\x80\x80", "\xFE", "\xFF",
        "\xC3(", "\xE2(\xAC"}) {
    EXPECT_EQ(valid_utf8_prefix(good + bad), good.size()) << bad;
    EXPECT_EQ(valid_utf8_prefix(good + bad + good), good.size()) << bad;
  }
}

TEST(Utf8, CutsBehindLinesThenBeforeWordsThenBetweenCharacters) {
  EXPECT_EQ(part_end("short", 8), 5u);
  EXPECT_EQ(part_end("12345678", 8), 8u);
  EXPECT_EQ(part_end("1\n345\n789", 8), 6u);
  EXPECT_EQ(part_end("1234567\n9", 8), 8u);
  EXPECT_EQ(part_end("12 45 789", 8), 5u);
  EXPECT_EQ(part_end("12345678 0", 8), 8u);
  EXPECT_EQ(part_end("12   678901", 5), 2u) << "a run of spaces stays whole";
  EXPECT_EQ(part_end("\xC3\xA4\xC3\xA4\xC3\xA4", 5), 4u);
  EXPECT_EQ(part_end("          ", 5), 5u);
  EXPECT_EQ(part_end("\x80\x80\x80\x80\x80\x80", 5), 5u) << "never empty, even on garbage";
}

}  // namespace
}  // namespace locus::data
