#include "locus/base/toml.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "locus/base/error.h"
#include "locus/base/file.h"
#include "locus/base/random.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_folder.h"

namespace locus {
namespace {

struct RouterConfig {
  std::string type = "top_k";
  int64_t top_k = 2;
  double capacity_factor = 1.25;

  template <class V>
  void visit_fields(V& v) {
    v("type", type, "router; see `locus list routers`");
    v("top_k", top_k, "experts per token");
    v("capacity_factor", capacity_factor, "slots per expert over its even share; 0: no limit");
  }
};

struct MoeConfig {
  RouterConfig router;
  int64_t num_experts = 8;
  bool dropless = true;

  template <class V>
  void visit_fields(V& v) {
    v("router", router, "");
    v("num_experts", num_experts, "experts per layer");
    v("dropless", dropless, "no capacity limit");
  }
};

struct Config {
  MoeConfig moe;
  double lr = 1e-3;
  std::string name;
  std::vector<int64_t> layers;
  std::vector<double> weights;
  std::vector<std::string> train;

  template <class V>
  void visit_fields(V& v) {
    v("moe", moe, "");
    v("lr", lr, "peak learning rate");
    v("name", name, "name of the run");
    v("layers", layers, "numbers of the layers");
    v("weights", weights, "share of each dataset");
    v("train", train, "training datasets");
  }
};

Config read(std::string_view text, const std::vector<std::string>& overrides = {}) {
  Config config;
  read_toml("x.toml", text, overrides, collect_fields(config));
  return config;
}

std::string error_in(std::string_view text, const std::vector<std::string>& overrides = {}) {
  return test::error_of<ConfigError>([&] { read(text, overrides); });
}

TEST(Toml, ReadsNestedTablesAndKeepsTheValueOfAbsentKeys) {
  const Config config = read("lr = 0.5\n[moe.router]\ntype = 'switch'\n[moe]\ndropless = false\n");
  EXPECT_EQ(config.lr, 0.5);
  EXPECT_EQ(config.moe.router.type, "switch");
  EXPECT_EQ(config.moe.router.top_k, 2);
  EXPECT_FALSE(config.moe.dropless);
  EXPECT_EQ(config.moe.num_experts, 8);
}

TEST(Toml, ReadsDottedKeysAndInlineTablesAsTables) {
  const Config config = read("moe.router.top_k = 4\nmoe.num_experts = 16\n");
  EXPECT_EQ(config.moe.router.top_k, 4);
  EXPECT_EQ(config.moe.num_experts, 16);
  EXPECT_EQ(read("moe = { router = { top_k = 3 } }").moe.router.top_k, 3);
}

TEST(Toml, AcceptsAnIntegerForADoubleAndNotTheReverse) {
  EXPECT_EQ(read("lr = 2").lr, 2.0);
  EXPECT_EQ(read("weights = [1, 2.5]").weights, (std::vector<double>{1.0, 2.5}));
  EXPECT_EQ(error_in("moe.num_experts = 8.0"),
            "x.toml:1: moe.num_experts = 8.0 is a float; expected an integer");
}

TEST(Toml, NamesTheNearestKeyAndTheLineOfAnUnknownOne) {
  EXPECT_EQ(error_in("[moe.router]\ncapacity_facto = 1.0"),
            "x.toml:2: moe.router.capacity_facto is not a known key; did you mean "
            "moe.router.capacity_factor?");
}

TEST(Toml, NamesAMisspeltTableOnceAndNotEachOfItsKeys) {
  EXPECT_EQ(error_in("\n[moe.ruoter]\ntop_k = 1\ntype = 'hash'\n"),
            "x.toml:2: moe.ruoter is not a known key; did you mean moe.router?");
}

TEST(Toml, FindsTheRightTableForAKeyInTheWrongOne) {
  EXPECT_EQ(error_in("top_k = 1"),
            "x.toml:1: top_k is not a known key; did you mean moe.router.top_k?");
}

TEST(Toml, ListsTheKeysOfTheTableWhenNothingIsNear) {
  EXPECT_EQ(error_in("[moe]\nzebra = 1"),
            "x.toml:2: moe.zebra is not a known key; known here: router, num_experts, dropless");
}

TEST(Toml, ReportsAllProblemsAtOnceInOrderOfTheirLines) {
  EXPECT_EQ(error_in("name = 3\nlr = 'fast'\n[moe]\nxyzzy = 1\ndropless = 1\n", {"moe.x", "lr=a"}),
            "x.toml:1: name = 3 is an integer; expected a string\n"
            "x.toml:2: lr = \"fast\" is a string; expected a number\n"
            "x.toml:4: moe.xyzzy is not a known key; known here: router, num_experts, dropless\n"
            "x.toml:5: moe.dropless = 1 is an integer; expected true or false\n"
            "--set moe.x: has no value; expected key=value, for example train.seed=3\n"
            "--set lr=a: lr = \"a\" is a string; expected a number");
}

TEST(Toml, ReportsTheWrongElementOfAnArrayWithItsOwnLine) {
  EXPECT_EQ(error_in("layers = [1,\n  2.5,\n  'x']"),
            "x.toml:2: layers[1] = 2.5 is a float; expected an integer\n"
            "x.toml:3: layers[2] = \"x\" is a string; expected an integer");
  EXPECT_EQ(error_in("train = 'a'"),
            "x.toml:1: train = \"a\" is a string; expected an array of strings");
  EXPECT_EQ(error_in("layers = [[1]]"), "x.toml:1: layers[0] is an array; expected an integer");
}

TEST(Toml, SaysWhenATableStandsWhereAValueShouldAndTheReverse) {
  EXPECT_EQ(error_in("[lr]\nx = 1"), "x.toml:1: lr is a table; expected a number");
  EXPECT_EQ(error_in("moe = 1"),
            "x.toml:1: moe = 1 is an integer; expected a table with keys such as moe.router.type");
  EXPECT_EQ(error_in("[[moe]]\ndropless = true"),
            "x.toml:1: moe is an array; expected a table with keys such as moe.router.type");
}

TEST(Toml, ReportsSyntaxErrorsAndDuplicateKeysWithTheirLine) {
  EXPECT_TRUE(error_in("lr = 1\n\nname = \n").starts_with("x.toml:3: not valid TOML: "));
  EXPECT_TRUE(error_in("lr = 1\nlr = 2\n").starts_with("x.toml:2: not valid TOML: "));
  EXPECT_TRUE(error_in("lr = 1\nlr = 2\n").find("redefine") != std::string::npos);
  EXPECT_TRUE(error_in("[moe]\n[moe]\n").starts_with("x.toml:2: not valid TOML: "));
  EXPECT_TRUE(error_in("name = \"\xff\"").starts_with("x.toml:1: not valid TOML: "));
  EXPECT_TRUE(error_in("moe.num_experts = 99999999999999999999").find("64 bits") !=
              std::string::npos);
}

TEST(TomlOverride, ComesAfterTheFileAndTheLaterOneWins) {
  EXPECT_EQ(read("lr = 1", {"lr=2", "lr = 3"}).lr, 3.0);
}

TEST(TomlOverride, TakesBareWordsTomlValuesAndSpaces) {
  const Config config =
      read("", {"moe.router.type=switch", " moe.router.top_k = 3 ", "layers=[1,2]", "name=\"a b\"",
                "moe.dropless=false", "weights = [1, 2.5]", "train=['a', \"b\"]", "lr=inf"});
  EXPECT_EQ(config.moe.router.type, "switch");
  EXPECT_EQ(config.moe.router.top_k, 3);
  EXPECT_EQ(config.layers, (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(config.name, "a b");
  EXPECT_FALSE(config.moe.dropless);
  EXPECT_EQ(config.weights, (std::vector<double>{1.0, 2.5}));
  EXPECT_EQ(config.train, (std::vector<std::string>{"a", "b"}));
  EXPECT_EQ(config.lr, std::numeric_limits<double>::infinity());
}

TEST(TomlOverride, TakesAnyBareTextForAStringSetting) {
  EXPECT_EQ(read("", {"name=2026"}).name, "2026");
  EXPECT_EQ(read("", {"name=true"}).name, "true");
  EXPECT_EQ(read("", {"name=runs/a b=c#1"}).name, "runs/a b=c#1");
  EXPECT_EQ(read("", {"name=\"\""}).name, "");
}

TEST(TomlOverride, ReplacesAnArrayOfTheFileAsAWhole) {
  EXPECT_EQ(read("layers = [1, 2, 3]", {"layers=[7]"}).layers, (std::vector<int64_t>{7}));
  EXPECT_TRUE(read("layers = [1]", {"layers=[]"}).layers.empty());
}

TEST(TomlOverride, TakesAnInlineTable) {
  const Config config = read("", {"moe.router={type='hash', top_k=1}"});
  EXPECT_EQ(config.moe.router.type, "hash");
  EXPECT_EQ(config.moe.router.top_k, 1);
}

TEST(TomlOverride, IsNamedInItsErrors) {
  EXPECT_EQ(error_in("", {"moe.router.typ=switch"}),
            "--set moe.router.typ=switch: moe.router.typ is not a known key; did you mean "
            "moe.router.type?");
  EXPECT_EQ(error_in("", {"moe.num_experts=four"}),
            "--set moe.num_experts=four: moe.num_experts = \"four\" is a string; expected an "
            "integer");
  EXPECT_EQ(error_in("", {"layers=[1,"}).rfind("--set layers=[1,: layers is not valid TOML: ", 0),
            0U);
}

TEST(TomlOverride, NeedsAKeyAndAValueAndHoldsOneSetting) {
  EXPECT_NE(error_in("", {"lr"}).find("has no value"), std::string::npos);
  EXPECT_NE(error_in("", {"lr="}).find("has no value after"), std::string::npos);
  EXPECT_NE(error_in("", {"=3"}).find("has no key before"), std::string::npos);
  EXPECT_NE(error_in("", {"lr=1\nlayers=[2]"}).find("one setting at a time"), std::string::npos);
}

TEST(TomlFile, IsNamedInErrorsAndADataErrorWhenMissing) {
  const test::TempFolder folder;
  const std::string path = (folder / "run.toml").string();
  Config config;
  const Fields fields = collect_fields(config);
  const auto read_it = [&] { read_toml_file(path, {}, fields); };
  EXPECT_NE(test::error_of<DataError>(read_it).find(path), std::string::npos);
  write_file_atomic(path, "lr = 'x'");
  EXPECT_EQ(test::error_of<ConfigError>(read_it),
            path + ":1: lr = \"x\" is a string; expected a number");
}

TEST(TomlWrite, PutsTopLevelKeysFirstAndKeysBeforeSubTables) {
  Config config;
  EXPECT_EQ(write_toml(collect_fields(config), false),
            "lr = 0.001\n"
            "name = \"\"\n"
            "layers = []\n"
            "weights = []\n"
            "train = []\n"
            "\n"
            "[moe]\n"
            "num_experts = 8\n"
            "dropless = true\n"
            "\n"
            "[moe.router]\n"
            "type = \"top_k\"\n"
            "top_k = 2\n"
            "capacity_factor = 1.25\n");
}

TEST(TomlWrite, SetsDocsBesideTheKeysAndWrapsLongOnes) {
  int64_t number = 3;
  std::string path = "a path that is much too long for a comment beside it";
  const std::string words = "word word word word word word word word word word word word word word";
  const Fields fields = {{"a.number", &number, words + " " + words}, {"a.path", &path, "a file"}};
  EXPECT_EQ(write_toml(fields, true),
            "[a]\n"
            "number = 3  # word word word word word word word word word word word word word word "
            "word word word\n"
            "            # word word word word word word word word word word word\n"
            "path = \"a path that is much too long for a comment beside it\"\n"
            "            # a file\n");
  Config config;
  read_toml("docs", write_toml(collect_fields(config), true), {}, collect_fields(config));
}

TEST(TomlWrite, WritesDoublesAsFloatsAndShort) {
  const auto text = [](double value) { return to_toml(FieldPointer(&value)); };
  EXPECT_EQ(text(1.0), "1.0");
  EXPECT_EQ(text(-0.0), "-0.0");
  EXPECT_EQ(text(1e-5), "1e-5");
  EXPECT_EQ(text(1e300), "1e300");
  EXPECT_EQ(text(0.1), "0.1");
  EXPECT_EQ(text(-std::numeric_limits<double>::infinity()), "-inf");
  EXPECT_EQ(text(std::nan("")), "nan");
}

TEST(TomlWrite, RoundTripsEveryKindOfValueExactly) {
  Config config;
  config.lr = std::nextafter(0.1, 1.0);
  config.moe.num_experts = std::numeric_limits<int64_t>::min();
  config.moe.router.top_k = std::numeric_limits<int64_t>::max();
  config.name = "quote \" backslash \\ line\nreturn\r tab\t bell\a del\x7f nul " +
                std::string(1, '\0') + " umlaut \xc3\xa4 # = [";
  config.layers = {0, -1, std::numeric_limits<int64_t>::min()};
  config.weights = {1e-5,
                    std::numeric_limits<double>::infinity(),
                    -std::numeric_limits<double>::infinity(),
                    std::numeric_limits<double>::denorm_min(),
                    std::numeric_limits<double>::max(),
                    -0.0};
  config.train = {"", "a, b]", "'", "\\u0041"};
  const std::string text = write_toml(collect_fields(config), false);
  Config copy = read(text);
  EXPECT_EQ(copy.name, config.name);
  EXPECT_EQ(copy.weights, config.weights);
  EXPECT_TRUE(std::signbit(copy.weights.back()));
  EXPECT_EQ(copy.train, config.train);
  EXPECT_EQ(write_toml(collect_fields(copy), false), text);
  EXPECT_TRUE(std::isnan(read("lr = nan").lr));
}

TEST(TomlWrite, RoundTripsRandomDoublesToTheLastBit) {
  std::vector<double> values;
  for (uint64_t i = 0; values.size() < 2000; ++i) {
    const auto value = std::bit_cast<double>(random_bits(7, i));
    if (std::isfinite(value)) values.push_back(value);
  }
  EXPECT_EQ(read("weights = " + to_toml(FieldPointer(&values))).weights, values);
}

TEST(Nearest, CountsSwapsAsOneAndGivesNothingForStrangers) {
  const std::vector<std::string> names = {"top_k", "switch", "hash"};
  EXPECT_EQ(nearest("swtich", names), "switch");
  EXPECT_EQ(nearest("swich", names), "switch");
  EXPECT_EQ(nearest("top_k", names), "top_k");
  EXPECT_EQ(nearest("banana", names), "");
  EXPECT_EQ(nearest("", {}), "");
}

}  // namespace
}  // namespace locus
