#include "locus/app/describe.h"

#include <gtest/gtest.h>

namespace locus::app {
namespace {

// The part of the text that a row of the table says.
std::string value_of(const std::string& text, const std::string& row) {
  const size_t begin = text.find("\n  " + row);
  if (begin == std::string::npos) return "no row " + row;
  const size_t value = text.find_first_not_of(' ', begin + 3 + row.size());
  return text.substr(value, text.find('\n', value) - value);
}

// Mostly embeddings and experts, of 12 MiB in float32.
RunConfig config_of_ranks(int64_t ep, bool distributed) {
  RunConfig config;
  config.model.vocab_size = 8192;
  config.model.hidden_size = 128;
  config.model.num_hidden_layers = 1;
  config.model.num_attention_heads = 2;
  config.moe.num_experts = 64;
  config.moe.intermediate_size = 128;
  config.parallel.expert_model_parallel_size = ep;
  config.parallel.use_distributed_optimizer = distributed;
  return config;
}

TEST(DescribeModel, TellsTheMemoryOfEachRank) {
  const std::string alone = describe_model(config_of_ranks(1, false));
  EXPECT_NE(alone.find("memory for training (estimate)"), std::string::npos);
  EXPECT_EQ(value_of(alone, "weights, gradients"), "20.3 MiB, 20.3 MiB");
  EXPECT_EQ(value_of(alone, "optimiser state"), "40.6 MiB");
  // A quarter of the experts, all of the rest.
  const std::string spread = describe_model(config_of_ranks(4, false), 8);
  EXPECT_NE(spread.find("of each of 8 ranks"), std::string::npos);
  EXPECT_EQ(value_of(spread, "weights, gradients"), "11.3 MiB, 11.3 MiB");
  EXPECT_EQ(value_of(spread, "optimiser state"), "22.6 MiB");
  // An eighth of all of it.
  const std::string parts = describe_model(config_of_ranks(4, true), 8);
  EXPECT_EQ(value_of(parts, "weights, gradients"), "11.3 MiB, 11.3 MiB");
  EXPECT_EQ(value_of(parts, "optimiser state"), "5.07 MiB");
}

}  // namespace
}  // namespace locus::app
