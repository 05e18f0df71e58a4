#include "locus/app/run_identity.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "locus/comm/thread_ranks.h"
#include "tests/support/tiny_run.h"

namespace locus::app {
namespace {

TEST(RunIdentity, HasAllSettingsButPaths) {
  const auto text = [](const std::vector<std::string>& overrides) {
    RunConfig config = load_run_config("", overrides);
    return settings_identity(config).text;
  };
  EXPECT_NE(text({}).find("\nlr_schedule.lr = "), std::string::npos) << text({});
  EXPECT_EQ(text({}), text({"train.output_dir=\"elsewhere\"", "data.train=[\"a\"]"}));
  EXPECT_NE(text({}), text({"lr_schedule.lr=0.125"}));
  EXPECT_NE(text({}), text({"moe.router.top_k=1"}));
  EXPECT_NE(text({}), text({"train.seed=5"}));
}

TEST(RunIdentity, OfTheProgramIsTheSameTwice) {
  EXPECT_EQ(program_identity().text, program_identity().text);
  EXPECT_NE(program_identity().text.find("build = "), std::string::npos);
}

TEST(RunIdentity, SeesEveryWeight) {
  model::Transformer transformer(test::tiny_transformer_config());
  for (const bool of_experts : {false, true}) {
    const std::string before = weights_identity(transformer, of_experts).text;
    EXPECT_EQ(weights_identity(transformer, of_experts).text, before);
    for (auto& parameter : transformer.named_parameters()) {
      const bool is_expert = parameter.key().find(".experts.") != std::string::npos;
      const at::NoGradGuard no_grad;
      const at::Tensor saved = parameter.value().clone();
      parameter.value().view({-1})[-1] += 1;
      EXPECT_EQ(weights_identity(transformer, of_experts).text != before, is_expert == of_experts)
          << parameter.key();
      parameter.value().copy_(saved);
    }
  }
}

// What check_agreement() is asked: dense weights over all ranks, experts over their copies.
TEST(RunIdentity, IsTheSameOnRanksWithTheSameWeights) {
  const comm::ParallelConfig parallel{.expert_model_parallel_size = 2};
  comm::run_thread_ranks(4, parallel, [](const comm::ParallelContext& context) {
    model::TransformerConfig shape = test::tiny_transformer_config();
    shape.parallel = context;
    model::Transformer transformer(shape);
    comm::check_agreement(context.world.get(), "host", {weights_identity(transformer, false)});
    comm::check_agreement(context.edp.get(), "host", {weights_identity(transformer, true)});
  });
}

}  // namespace
}  // namespace locus::app
