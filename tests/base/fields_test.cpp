#include "locus/base/fields.h"

#include <gtest/gtest.h>

namespace locus {
namespace {

struct Inner {
  bool on = false;
  std::vector<std::string> names;

  template <class V>
  void visit_fields(V& v) {
    v("on", on, "a switch");
    v("names", names, "some names");
  }
};

struct Outer {
  int64_t first = 1;
  Inner inner;
  double last = 2.0;

  template <class V>
  void visit_fields(V& v) {
    v("first", first, "the first");
    v("inner", inner, "a table");
    v("last", last, "the last");
  }
};

TEST(Fields, ListsNestedStructsAsDottedPathsInOrderOfDeclaration) {
  Outer outer;
  const Fields fields = collect_fields(outer);
  ASSERT_EQ(fields.size(), 4U);
  EXPECT_EQ(fields[0].path, "first");
  EXPECT_EQ(fields[1].path, "inner.on");
  EXPECT_EQ(fields[2].path, "inner.names");
  EXPECT_EQ(fields[3].path, "last");
  EXPECT_EQ(fields[2].doc, "some names");
}

TEST(Fields, PointIntoTheStruct) {
  Outer outer;
  const Fields fields = collect_fields(outer, "a.");
  EXPECT_EQ(fields[1].path, "a.inner.on");
  *std::get<bool*>(fields[1].value) = true;
  *std::get<double*>(fields[3].value) = 5.0;
  EXPECT_TRUE(outer.inner.on);
  EXPECT_EQ(outer.last, 5.0);
}

}  // namespace
}  // namespace locus
