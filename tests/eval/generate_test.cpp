#include "locus/eval/generate.h"

#include <gtest/gtest.h>

#include <csignal>

#include "locus/base/signals.h"
#include "tests/eval/eval_helpers.h"
#include "tests/support/expect_error.h"

namespace locus::eval {
namespace {

using test::error_of;
using Ids = std::vector<int32_t>;
using Requests = std::vector<GenerationRequest>;

const Requests& unequal_prompts() {
  static const Requests prompts = {
      {{3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5}}, {{7}}, {}, {{8, 9, 7, 9, 3}}};
  return prompts;
}

GenerationOptions greedy(int64_t max_new_tokens) {
  return {.sampler = {.temperature = 0}, .max_new_tokens = max_new_tokens};
}

void expect_same(const GenerationReport& got, const GenerationReport& want) {
  ASSERT_EQ(got.results.size(), want.results.size());
  for (size_t i = 0; i < want.results.size(); ++i) {
    EXPECT_EQ(got.results[i].ids, want.results[i].ids) << "prompt " << i;
    EXPECT_EQ(got.results[i].text, want.results[i].text) << "prompt " << i;
    EXPECT_EQ(got.results[i].reason, want.results[i].reason) << "prompt " << i;
  }
}

class GenerateWithRouter : public testing::TestWithParam<std::string> {};

TEST_P(GenerateWithRouter, GivesTheSameTokensWithAndWithoutCacheAndInAnyBatch) {
  model::Transformer transformer(transformer_config(GetParam()));
  const ListTokenizer tokenizer = numbered_tokenizer();
  const SamplerOptions sampled{
      .temperature = 0.8, .top_k = 12, .top_p = 0.95, .repetition_penalty = 1.2, .seed = 4};
  for (const SamplerOptions& sampler : {SamplerOptions{.temperature = 0}, sampled}) {
    GenerationOptions options{.sampler = sampler, .max_new_tokens = 20};
    const auto want = generate(transformer, tokenizer, unequal_prompts(), options);
    EXPECT_GT(want.generated_tokens, 15);
    options.use_cache = false;
    expect_same(generate(transformer, tokenizer, unequal_prompts(), options), want);
    options.batch_size = 1;
    expect_same(generate(transformer, tokenizer, unequal_prompts(), options), want);
    options.use_cache = true;
    expect_same(generate(transformer, tokenizer, unequal_prompts(), options), want);
    options.batch_size = 3;
    expect_same(generate(transformer, tokenizer, unequal_prompts(), options), want);
  }
}

std::vector<std::string> models() {
  std::vector<std::string> names = moe::router_names();
  names.push_back("dense");
  return names;
}

INSTANTIATE_TEST_SUITE_P(Routers, GenerateWithRouter, testing::ValuesIn(models()),
                         [](const auto& case_info) { return case_info.param; });

TEST(Generate, WorksWithLearnedPositions) {
  model::TransformerConfig config = transformer_config("top_k");
  config.model.position_embedding_type = "learned";
  model::Transformer transformer(config);
  GenerationOptions options = greedy(20);
  const auto want = generate(transformer, numbered_tokenizer(), unequal_prompts(), options);
  options.use_cache = false;
  expect_same(generate(transformer, numbered_tokenizer(), unequal_prompts(), options), want);
}

TEST(Generate, TakesTheMostProbableContinuationTokenByToken) {
  model::Transformer transformer(transformer_config("top_k"));
  const Ids prompt = {3, 1, 4};
  const Generation got =
      generate(transformer, numbered_tokenizer(), {{prompt}}, greedy(6)).results[0];
  transformer.eval();
  const at::NoGradGuard no_grad;
  std::vector<int64_t> text(prompt.begin(), prompt.end());
  for (const int32_t id : got.ids) {
    model::TransformerInput input;
    input.input_ids_BS = at::tensor(text, at::kLong).unsqueeze(0);
    input.position_ids_BS = at::arange(static_cast<int64_t>(text.size()), at::kLong).unsqueeze(0);
    const at::Tensor last = transformer.forward(input).hidden_TD[-1];
    EXPECT_EQ(at::mv(transformer.output_weight(), last).argmax().item<int64_t>(), id);
    text.push_back(id);
  }
}

// The tokens 1 to 6 are "a", the two halves of e acute, "E", "ND" and "z"; then the text ends.
class GenerateChain : public testing::Test {
 protected:
  ListTokenizer tokenizer_{{"a", "\xc3", "\xa9", "E", "ND", "z"}};
  std::shared_ptr<model::Transformer> transformer_ = chain_model({1, 2, 3, 4, 5, 6, 0});

  GenerationReport run(const Requests& requests, const GenerationOptions& options) {
    return generate(*transformer_, tokenizer_, requests, options);
  }
};

TEST_F(GenerateChain, EndsWithTheDocument) {
  const Generation got = run({{{1}}}, greedy(20)).results[0];
  EXPECT_EQ(got.ids, (Ids{2, 3, 4, 5, 6}));
  EXPECT_EQ(got.text,
            "\xc3\xa9"
            "ENDz");
  EXPECT_EQ(got.reason, FinishReason::kEod);
}

TEST_F(GenerateChain, StartsAnEmptyPromptBehindAnEndOfDocument) {
  EXPECT_EQ(run({{}}, greedy(20)).results[0].ids, (Ids{1, 2, 3, 4, 5, 6}));
}

TEST_F(GenerateChain, EndsAfterMaxNewTokens) {
  const Generation got = run({{{1}}}, greedy(3)).results[0];
  EXPECT_EQ(got.ids, (Ids{2, 3, 4}));
  EXPECT_EQ(got.text,
            "\xc3\xa9"
            "E");
  EXPECT_EQ(got.reason, FinishReason::kLength);
}

TEST_F(GenerateChain, EndsBeforeAStopStringAcrossTokens) {
  GenerationOptions options = greedy(20);
  options.stop = {"nothing", "EN"};
  const Generation got = run({{{1}}}, options).results[0];
  EXPECT_EQ(got.text, "\xc3\xa9");
  EXPECT_EQ(got.ids, (Ids{2, 3, 4, 5}));
  EXPECT_EQ(got.reason, FinishReason::kStop);
}

TEST_F(GenerateChain, DoesNotStopAtAStopStringThatTheEndLeavesUnfinished) {
  GenerationOptions options = greedy(3);
  options.stop = {"END"};
  const Generation got = run({{{1}}}, options).results[0];
  EXPECT_EQ(got.text,
            "\xc3\xa9"
            "E");
  EXPECT_EQ(got.reason, FinishReason::kLength);
}

TEST_F(GenerateChain, StreamsWholeCharactersThatJoinToTheText) {
  GenerationOptions options = greedy(20);
  options.stop = {"ENx"};
  std::vector<std::vector<std::string>> pieces(2);
  options.on_text = [&](size_t prompt, std::string_view piece) {
    pieces[prompt].emplace_back(piece);
  };
  const GenerationReport report = run({{{1}}, {{4}}}, options);
  EXPECT_EQ(pieces[0], (std::vector<std::string>{"\xc3\xa9", "END", "z"}));
  EXPECT_EQ(pieces[1], (std::vector<std::string>{"ND", "z"}));
  EXPECT_EQ(report.results[0].text,
            "\xc3\xa9"
            "ENDz");
  EXPECT_EQ(report.results[1].text, "NDz");
}

TEST_F(GenerateChain, CountsTokensOfPromptsAndOfGeneration) {
  const GenerationReport report = run({{{1}}, {{1, 2, 3}}}, greedy(20));
  EXPECT_EQ(report.prompt_tokens, 4);
  EXPECT_EQ(report.generated_tokens, 5 + 3);  // with the end of document, without the first ones
  EXPECT_GT(report.prompt_tokens_per_s(), 0);
  EXPECT_GT(report.generated_tokens_per_s(), 0);
}

TEST_F(GenerateChain, PenalizesRepetitionOverPromptAndGeneratedTokens) {
  {
    const at::NoGradGuard no_grad;
    auto parameters = transformer_->named_parameters();
    parameters["lm_head"][5][1] = 10;  // after 1, the second best to 2
  }
  GenerationOptions options = greedy(1);
  EXPECT_EQ(run({{{2, 1}}}, options).results[0].ids, (Ids{2}));
  options.sampler.repetition_penalty = 4;
  EXPECT_EQ(run({{{1}}}, options).results[0].ids, (Ids{2}));
  EXPECT_EQ(run({{{2, 1}}}, options).results[0].ids, (Ids{5}));
  transformer_ = chain_model({1, 1, 0});  // repeats itself, if it may
  {
    const at::NoGradGuard no_grad;
    transformer_->named_parameters()["lm_head"][2][1] = 10;
  }
  tokenizer_ = ListTokenizer({"a", "b"});
  options.max_new_tokens = 2;
  EXPECT_EQ(run({{}}, options).results[0].ids, (Ids{1, 2}));
}

TEST_F(GenerateChain, NeverDrawsATokenThatOnlyPadsTheVocabulary) {
  // Token 7 would follow 6, but the tokenizer ends at 6.
  transformer_ = chain_model({1, 2, 3, 4, 5, 6, 7, 7});
  const Generation got = run({{{5}}}, greedy(20)).results[0];
  ASSERT_FALSE(got.ids.empty());
  EXPECT_EQ(got.ids[0], 6);
  for (const int32_t id : got.ids) EXPECT_LT(id, 7);
}

TEST_F(GenerateChain, RefusesATokenizerThatIsTooLarge) {
  transformer_ = chain_model({1, 2, 0});
  const std::string message = error_of<DataError>([&] { run({{{1}}}, greedy(1)); });
  EXPECT_NE(message.find("7 pieces"), std::string::npos) << message;
}

TEST_F(GenerateChain, LeavesTheModelInItsModeAndStopsAfterASignal) {
  transformer_->train();
  GenerationOptions options = greedy(20);
  options.on_text = [](size_t, std::string_view) { set_received_signal(SIGINT); };
  error_of<Interrupted>([&] { run({{{1}}}, options); });
  set_received_signal(0);
  EXPECT_TRUE(transformer_->is_training());
}

TEST_F(GenerateChain, RefusesImpossibleOptions) {
  error_of<ConfigError>([&] { run({{{1}}}, greedy(0)); });
  for (const char* stop : {"", "\xa9"}) {
    GenerationOptions options = greedy(1);
    options.stop = {stop};
    error_of<ConfigError>([&] { run({{{1}}}, options); });
  }
}

TEST(GenerateContext, EndsWhereTheContextEnds) {
  for (const bool use_cache : {true, false}) {
    const auto transformer = chain_model({1, 2, 1});  // never ends; 48 positions
    const ListTokenizer tokenizer({"a", "b"});
    GenerationOptions options = greedy(1000);
    options.use_cache = use_cache;
    const Requests requests = {{Ids(40, 1)}, {Ids(47, 1)}};
    const auto results = generate(*transformer, tokenizer, requests, options).results;
    EXPECT_EQ(results[0].ids.size(), 8u);
    EXPECT_EQ(results[0].reason, FinishReason::kLength);
    EXPECT_EQ(results[1].ids.size(), 1u);
  }
}

TEST(GenerateContext, RefusesAPromptThatFillsItAndNamesBothNumbers) {
  const auto transformer = chain_model({1, 2, 1});
  const std::string message = error_of<ConfigError>([&] {
    generate(*transformer, ListTokenizer({"a", "b"}), {{{1}}, {Ids(48, 1)}}, greedy(1));
  });
  EXPECT_NE(message.find("prompt 2 has 48 tokens"), std::string::npos) << message;
  EXPECT_NE(message.find("47"), std::string::npos) << message;
}

}  // namespace
}  // namespace locus::eval
