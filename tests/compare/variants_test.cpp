#include "locus/compare/variants.h"

#include <gtest/gtest.h>

#include "locus/base/error.h"
#include "tests/support/expect_error.h"

namespace locus::compare {
namespace {

CompareConfig two_variants() {
  CompareConfig config;
  config.config = "base.toml";
  config.settings = {"train.max_steps=30"};
  config.variants = {"dense: moe.num_experts=0",
                     "grown:  moe.router.type=\"dense_to_sparse\" evolve.num_experts=[1, 4]  "};
  return config;
}

TEST(Variants, AreReadFromOneLineEach) {
  const std::vector<Variant> variants = parse_variants(two_variants());
  ASSERT_EQ(variants.size(), 2u);
  EXPECT_EQ(variants[0].name, "dense");
  EXPECT_EQ(variants[1].settings, (std::vector<std::string>{"moe.router.type=\"dense_to_sparse\"",
                                                            "evolve.num_experts=[1, 4]"}));
}

TEST(Variants, NameAllThatIsWrongAtOnce) {
  CompareConfig config = two_variants();
  config.config = "";
  config.seeds = {1, 1};
  config.equal = "luck";
  config.jobs = 0;
  config.variants = {"dense", "dense: moe.num_experts", "dense: a=1"};
  const std::string error = test::error_of<ConfigError>([&] { parse_variants(config); });
  for (const char* part :
       {"compare.config must name", "a seed twice", "compare.equal = \"luck\" is not known",
        "compare.jobs = 0", "\"dense\" is not of the form \"name: key=value key=value\"",
        "dense: \"moe.num_experts\" is not of the form key=value",
        "two of them are called \"dense\""}) {
    EXPECT_NE(error.find(part), std::string::npos) << part << "\n" << error;
  }
}

TEST(Jobs, HaveAFolderOfTheirOwnForTheirSettings) {
  const CompareConfig config = two_variants();
  const std::vector<Variant> variants = parse_variants(config);
  const Job job = make_job(config, "base", variants[0], 7, {});
  EXPECT_EQ(job.settings,
            (std::vector<std::string>{"train.max_steps=30", "moe.num_experts=0", "train.seed=7",
                                      "train.output_dir=" + job.folder}));
  EXPECT_EQ(job.folder, make_job(config, "base", variants[0], 7, {}).folder);
  for (const Job& other :
       {make_job(config, "base", variants[0], 8, {}), make_job(config, "base", variants[1], 7, {}),
        make_job(config, "other base", variants[0], 7, {}),
        make_job(config, "base", variants[0], 7, {"train.max_steps=40"})}) {
    EXPECT_NE(other.folder, job.folder);
  }
}

}  // namespace
}  // namespace locus::compare
