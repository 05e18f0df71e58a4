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

TEST(DescribeModel, TellsWhatEachOfSeveralRanksSends) {
  RunConfig config = config_of_ranks(4, false);
  config.train.global_batch_size = 16;
  config.data.sequence_length = 256;
  EXPECT_EQ(describe_model(config_of_ranks(1, false)).find("sent by each rank"), std::string::npos);
  const std::string text = describe_model(config, 8);
  // 16 * 256 / 8 tokens, two experts each, rows of 512 bytes, four ways, three of four leave.
  EXPECT_EQ(value_of(text, "token rows, tokens anywhere"), "1.50 MiB");
  // 7/8 of the 8.3 MiB that all have, half of a quarter of the 12 MiB of experts; all of it twice.
  const double experts = 2 * 0.5 * 3, others = 2 * 7.0 / 8 * (20.3 - 12);
  EXPECT_EQ(value_of(text, "sums of gradients"), short_bytes((experts + others) * 1048576));
}

}  // namespace
}  // namespace locus::app
