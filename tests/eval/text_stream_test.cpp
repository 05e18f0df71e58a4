#include "locus/eval/text_stream.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace locus::eval {
namespace {

// What comes out piece by piece, the end included.
std::vector<std::string> pieces_of(TextStream stream, const std::vector<std::string>& tokens) {
  std::vector<std::string> pieces;
  for (const std::string& token : tokens) pieces.push_back(stream.push(token));
  pieces.push_back(stream.finish());
  std::string joined;
  for (const std::string& piece : pieces) joined += piece;
  EXPECT_EQ(joined, stream.text());
  return pieces;
}

std::string text_of(const std::vector<std::string>& stop, const std::vector<std::string>& tokens) {
  TextStream stream(stop);
  for (const std::string& token : tokens) stream.push(token);
  stream.finish();
  return stream.text();
}

std::vector<std::string> bytes_of(const std::string& text) {
  std::vector<std::string> bytes;
  for (const char c : text) bytes.emplace_back(1, c);
  return bytes;
}

using Pieces = std::vector<std::string>;

TEST(TextStream, PassesTextThroughAtOnce) {
  EXPECT_EQ(pieces_of(TextStream(), {"a", " b", "\n"}), (Pieces{"a", " b", "\n", ""}));
}

TEST(TextStream, HoldsBackHalfACharacter) {
  EXPECT_EQ(pieces_of(TextStream(), bytes_of("\xc3\xa9z\xf0\x9f\x98\x80")),
            (Pieces{"", "\xc3\xa9", "z", "", "", "", "\xf0\x9f\x98\x80", ""}));
  EXPECT_EQ(
      pieces_of(TextStream(), bytes_of("\xed\x9f\xbf\xe0\xa0\x80\xf4\x8f\xbf\xbf")),
      (Pieces{"", "", "\xed\x9f\xbf", "", "", "\xe0\xa0\x80", "", "", "", "\xf4\x8f\xbf\xbf", ""}));
}

TEST(TextStream, ReplacesBytesThatCannotBecomeText) {
  const std::string mark = "\xef\xbf\xbd";
  EXPECT_EQ(text_of({}, {"a\xff"
                         "b"}),
            "a" + mark + "b");
  EXPECT_EQ(text_of({}, {"\xc3", "b"}), mark + "b");
  EXPECT_EQ(text_of({}, {"a\xe2\x82"}), "a" + mark + mark);
  EXPECT_EQ(pieces_of(TextStream(), {"\xed", "\xa0"}), (Pieces{"", mark + mark, ""}));
}

TEST(TextStream, EndsBeforeAStopStringAcrossTokens) {
  TextStream stream({"END"});
  EXPECT_EQ(stream.push("text E"), "text ");
  EXPECT_EQ(stream.push("N"), "");
  EXPECT_FALSE(stream.stopped());
  EXPECT_EQ(stream.push("D and more"), "");
  EXPECT_TRUE(stream.stopped());
  EXPECT_EQ(stream.push("more"), "");
  EXPECT_EQ(stream.finish(), "");
  EXPECT_EQ(stream.text(), "text ");
}

TEST(TextStream, GivesBackWhatOnlyLookedLikeAStopString) {
  EXPECT_EQ(pieces_of(TextStream({"aab"}), bytes_of("aaab")), (Pieces{"", "", "a", "", ""}));
  EXPECT_EQ(pieces_of(TextStream({"END"}), {"EN", "x", "E"}), (Pieces{"", "ENx", "", "E"}));
}

TEST(TextStream, DoesNotDependOnTheBordersOfTokens) {
  const std::string text = "x abcd \xc3\xa9";
  for (const Pieces& stop : {Pieces{"abcd", "bc"}, Pieces{"bc", "abc"}, Pieces{" \xc3\xa9"}}) {
    EXPECT_EQ(text_of(stop, {text}), text_of(stop, bytes_of(text)));
  }
  EXPECT_EQ(text_of({"abcd", "bc"}, {text}), "x a");
  EXPECT_EQ(text_of({"bc", "abc"}, {text}), "x ");
}

TEST(TextStream, FindsAStopStringInWhatTheEndCompletes) {
  EXPECT_EQ(text_of({"\xef\xbf\xbd"}, {"a\xc3"}), "a");
}

}  // namespace
}  // namespace locus::eval
