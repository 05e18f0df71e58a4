#include "locus/base/hash.h"

#include <gtest/gtest.h>

#include "locus/base/error.h"
#include "locus/base/file.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_folder.h"

namespace locus {
namespace {

TEST(Hash, IsXxh3Of128BitsAsXxhsumPrintsIt) {
  EXPECT_EQ(to_hex(hash128("")), "99aa06d3014798d86001c324468d497f");
  EXPECT_EQ(to_hex(hash128("abc")), "06b05ab6733a618578af5f94892f3950");
}

TEST(Hash, PrintsLeadingZeros) { EXPECT_EQ(to_hex({1, 2}), "00000000000000010000000000000002"); }

TEST(Hash, OfAFileIsTheHashOfItsContent) {
  const test::TempFolder folder;
  const std::string content(300000, 'x');
  write_file_atomic(folder / "a", content);
  EXPECT_EQ(hash_file(folder / "a"), hash128(content));
  EXPECT_NE(hash_file(folder / "a"), hash128(content + "x"));
  write_file_atomic(folder / "empty", "");
  EXPECT_EQ(hash_file(folder / "empty"), hash128(""));
  const auto missing = [&] { hash_file(folder / "missing"); };
  EXPECT_NE(test::error_of<DataError>(missing).find("missing: cannot be opened"),
            std::string::npos);
}

}  // namespace
}  // namespace locus
