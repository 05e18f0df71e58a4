#include "locus/app/text_table.h"

#include <gtest/gtest.h>

#include <sstream>

#include "locus/base/error.h"

namespace locus::app {
namespace {

TEST(TextTable, SetsNumbersToTheRightAndLeavesNoTrailingSpaces) {
  TextTable table({"name", ">count"});
  table.add_row({"code", "7"});
  table.add_row({"manuals", "12,345"});
  std::ostringstream out;
  table.print(out, 2);
  EXPECT_EQ(out.str(), "  name      count\n  code          7\n  manuals  12,345\n");
}

TEST(TextTable, WithoutHeadingsPrintsRowsAlone) {
  TextTable table({"", ""});
  table.add_row({"a", "b"});
  std::ostringstream out;
  table.print(out);
  EXPECT_EQ(out.str(), "a  b\n");
}

TEST(TextTable, CountsCodePointsNotBytes) {
  TextTable table({"", ""});
  table.add_row({"\xc3\xa9t\xc3\xa9", "1"});
  table.add_row({"ete", "2"});
  std::ostringstream out;
  table.print(out);
  EXPECT_EQ(out.str(), "\xc3\xa9t\xc3\xa9  1\nete  2\n");
}

TEST(TextTable, RowsOfAnotherWidthAreOurFault) {
  TextTable table({"a", "b"});
  EXPECT_THROW(table.add_row({"1"}), InternalError);
}

TEST(WithCommas, GroupsDigitsByThree) {
  EXPECT_EQ(with_commas(0), "0");
  EXPECT_EQ(with_commas(999), "999");
  EXPECT_EQ(with_commas(1000), "1,000");
  EXPECT_EQ(with_commas(1234567), "1,234,567");
  EXPECT_EQ(with_commas(-1234), "-1,234");
  EXPECT_EQ(with_commas(-123), "-123");
}

}  // namespace
}  // namespace locus::app
