#include "locus/base/error.h"

#include <gtest/gtest.h>

#include "tests/support/expect_error.h"

namespace locus {
namespace {

TEST(Error, ClassesCarryTheirExitCodes) {
  EXPECT_EQ(ConfigError("x").exit_code(), 2);
  EXPECT_EQ(DataError("x").exit_code(), 3);
  EXPECT_EQ(CommError("x").exit_code(), 4);
  EXPECT_EQ(DivergedError("x").exit_code(), 5);
}

TEST(Error, FormatsItsMessageAndIsCaughtAsTheFamily) {
  const std::string message =
      test::error_of<Error>([] { throw DataError("{}: {} bytes are missing", "a.bin", 3); });
  EXPECT_EQ(message, "a.bin: 3 bytes are missing");
}

TEST(Check, PassesInSilenceAndEvaluatesItsConditionOnce) {
  int calls = 0;
  LOCUS_CHECK(++calls == 1);
  EXPECT_EQ(calls, 1);
}

TEST(Check, NamesFileConditionAndMessage) {
  const std::string message =
      test::error_of<InternalError>([] { LOCUS_CHECK(1 == 2, "got {} expected {}", 1, 2); });
  EXPECT_NE(message.find("error_test.cpp:"), std::string::npos);
  EXPECT_NE(message.find("check failed: 1 == 2: got 1 expected 2"), std::string::npos);
}

}  // namespace
}  // namespace locus
