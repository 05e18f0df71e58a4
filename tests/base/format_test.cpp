#include "locus/base/format.h"

#include <gtest/gtest.h>

#include <limits>
#include <stdexcept>

namespace locus {
namespace {

TEST(Format, PrintsEveryKindOfArgument) {
  const std::string text = "text";
  const char* const pointer = "chars";
  EXPECT_EQ(format("{} {} {} {} {}", true, -3, 4U, text, pointer), "true -3 4 text chars");
  EXPECT_EQ(format("{:.2f} {:>5} {:04x}", 1.005f, "a", uint8_t{255}), "1.00     a 00ff");
  EXPECT_EQ(format("{}", std::numeric_limits<uint64_t>::max()), "18446744073709551615");
}

TEST(Format, LeavesBracesOfAPlainMessageAlone) { EXPECT_EQ(format("{a} }{"), "{a} }{"); }

TEST(Format, ThrowsALogicErrorForAWrongPattern) {
  EXPECT_THROW(format("{} {}", 1), std::logic_error);
  EXPECT_THROW(format("{:d}", "text"), std::logic_error);
}

}  // namespace
}  // namespace locus
