#include "locus/eval/perplexity.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <csignal>

#include "locus/base/signals.h"
#include "locus/data/indexed_dataset.h"
#include "locus/model/batch_tensors.h"
#include "tests/data/dataset_files.h"
#include "tests/eval/eval_helpers.h"
#include "tests/support/expect_error.h"
#include "tests/support/temp_folder.h"

namespace locus::eval {
namespace {

using test::error_of;
using Ids = std::vector<int32_t>;

constexpr int64_t kLength = 8;

// Seven documents of two domains out of three, and one in a dataset without domains.
class EvaluateTest : public testing::Test {
 protected:
  EvaluateTest() {
    test::Documents documents;
    for (int32_t d = 0; d < 7; ++d) documents.push_back(document(d, 9 + 4 * d));
    const std::string first = folder_ / "first";
    test::write_dataset(first, documents, {"code", "prose", "unused"}, {0, 1, 1, 0, 0, 1, 0});
    const std::string second = folder_ / "second";
    test::write_dataset(second, {document(11, 21)});
    data::DataConfig config;
    config.sequence_length = kLength;
    source_ = std::make_unique<data::SampleSource>(
        std::vector<std::shared_ptr<const data::IndexedDataset>>{
            std::make_shared<data::IndexedDataset>(first, kVocabSize, 0),
            std::make_shared<data::IndexedDataset>(second, kVocabSize, 0)},
        std::vector<double>{}, config, 1);
    for (int32_t id = 0; id < kVocabSize; ++id) bytes_.push_back(id % 5);
  }

  static Ids document(int32_t number, int32_t length) {
    Ids ids;
    for (int32_t i = 0; i + 1 < length; ++i) ids.push_back(1 + (i * i + 7 * number) % 39);
    ids.push_back(0);
    return ids;
  }

  test::TempFolder folder_;
  std::unique_ptr<data::SampleSource> source_;
  Ids bytes_;
};

void expect_equal(const Score& got, const Score& want) {
  EXPECT_EQ(got.loss_sum, want.loss_sum);
  EXPECT_EQ(got.tokens, want.tokens);
  EXPECT_EQ(got.correct, want.correct);
  EXPECT_EQ(got.bytes, want.bytes);
}

TEST(Score, DerivesItsMeasures) {
  const Score score{.loss_sum = 6 * std::log(2.0), .tokens = 3, .correct = 1, .bytes = 12};
  EXPECT_DOUBLE_EQ(score.loss(), 2 * std::log(2.0));
  EXPECT_DOUBLE_EQ(score.perplexity(), 4.0);
  EXPECT_DOUBLE_EQ(score.accuracy(), 1.0 / 3);
  EXPECT_DOUBLE_EQ(score.bits_per_byte(), 0.5);
  EXPECT_TRUE(std::isnan(Score{}.perplexity()));
}

TEST_F(EvaluateTest, GivesTheSizeOfTheVocabularyForAUniformModel) {
  model::Transformer transformer(transformer_config("top_k"));
  {
    const at::NoGradGuard no_grad;
    transformer.named_parameters()["lm_head"].zero_();
  }
  EXPECT_NEAR(evaluate(transformer, *source_, bytes_).total.perplexity(), kVocabSize, 1e-4);
}

TEST_F(EvaluateTest, AgreesWithALoopOverPositions) {
  model::Transformer transformer(transformer_config("top_k"));
  const Evaluation got = evaluate(transformer, *source_, bytes_, {.batch_size = 3});

  transformer.eval();
  std::map<int, Score> want;
  const data::Batch all = source_->evaluation_batch(0, source_->num_evaluation_sequences());
  const auto hidden = transformer.forward(model::to_tensors(all, at::kCPU).input).hidden_TD;
  const at::Tensor logits =
      at::mm(hidden, transformer.output_weight().t()).detach().to(at::kDouble);
  for (size_t i = 0; i < all.labels.size(); ++i) {
    if (all.labels[i] < 0) continue;
    const double* row = logits[static_cast<int64_t>(i)].const_data_ptr<double>();
    double sum = 0;
    for (int64_t v = 0; v < kVocabSize; ++v) sum += std::exp(row[v]);
    Score& score = want[all.domain_ids[i]];
    score.loss_sum += std::log(sum) - row[all.labels[i]];
    score.tokens += 1;
    score.correct += std::max_element(row, row + kVocabSize) - row == all.labels[i];
    score.bytes += bytes_[static_cast<size_t>(all.labels[i])];
  }
  const std::map<std::string, int> domains = {{"code", 0}, {"prose", 1}, {"unknown", -1}};
  ASSERT_EQ(got.by_domain.size(), domains.size());
  for (const auto& [name, id] : domains) {
    const Score& score = got.by_domain.at(name);
    EXPECT_NEAR(score.loss(), want[id].loss(), 1e-5) << name;
    EXPECT_EQ(score.tokens, want[id].tokens) << name;
    EXPECT_EQ(score.correct, want[id].correct) << name;
    EXPECT_EQ(score.bytes, want[id].bytes) << name;
  }
}

TEST_F(EvaluateTest, AddsTheDomainsUpToTheTotal) {
  model::Transformer transformer(transformer_config("switch"));
  const Evaluation evaluation = evaluate(transformer, *source_, bytes_);
  Score sum;
  for (const auto& [name, score] : evaluation.by_domain) sum += score;
  EXPECT_NEAR(sum.loss_sum, evaluation.total.loss_sum, 1e-9);
  EXPECT_EQ(sum.tokens, evaluation.total.tokens);
  EXPECT_EQ(sum.correct, evaluation.total.correct);
  EXPECT_EQ(sum.bytes, evaluation.total.bytes);
}

TEST_F(EvaluateTest, SpreadsAFewBatchesEvenlyAndTakesTheSameEachTime) {
  model::Transformer transformer(transformer_config("top_k"));
  const int64_t count = source_->num_evaluation_sequences();
  std::vector<int64_t> seen;
  const EvaluateOptions options{
      .batch_size = 1, .max_batches = 3, .progress = [&](int64_t done, int64_t total) {
        EXPECT_EQ(total, 3);
        seen.push_back(done);
      }};
  const Score some = evaluate(transformer, *source_, bytes_, options).total;
  EXPECT_EQ(seen, (std::vector<int64_t>{1, 2, 3}));
  std::vector<data::Batch> middles;
  for (const int64_t i : {count / 6, count / 2, 5 * count / 6}) {
    middles.push_back(source_->evaluation_batch(i, 1));
  }
  expect_equal(evaluate(transformer, middles, bytes_).total, some);
  expect_equal(evaluate(transformer, *source_, bytes_, options).total, some);
  EXPECT_LT(some.tokens,
            evaluate(transformer, *source_, bytes_, {.max_batches = 999}).total.tokens);
}

TEST_F(EvaluateTest, LeavesTheModelInItsMode) {
  model::Transformer transformer(transformer_config("top_k"));
  for (const bool training : {true, false}) {
    transformer.train(training);
    evaluate(transformer, *source_, bytes_);
    EXPECT_EQ(transformer.is_training(), training);
  }
}

TEST_F(EvaluateTest, LooksAheadOnlyWhenAsked) {
  model::Transformer causal(transformer_config("top_k"));
  EXPECT_FALSE(looks_ahead_in_training(causal));
  model::Transformer transformer(transformer_config("expert_choice"));
  EXPECT_TRUE(looks_ahead_in_training(transformer));
  const Score before = evaluate(transformer, *source_, bytes_).total;
  const Evaluation by_training_rule =
      evaluate(transformer, *source_, bytes_, {.training_rule = true});
  EXPECT_GE(by_training_rule.rule_agreement, 0);
  EXPECT_LT(by_training_rule.rule_agreement, 1);
  EXPECT_TRUE(std::isnan(evaluate(transformer, *source_, bytes_).rule_agreement))
      << "one rule alone";
  const Score leaking = by_training_rule.total;
  EXPECT_NE(leaking.loss_sum, before.loss_sum);
  EXPECT_EQ(leaking.tokens, before.tokens);
  expect_equal(evaluate(transformer, *source_, bytes_).total, before);
}

TEST_F(EvaluateTest, StopsBetweenBatchesAfterASignal) {
  model::Transformer transformer(transformer_config("top_k"));
  const EvaluateOptions options{.progress = [](int64_t, int64_t) { set_received_signal(SIGTERM); }};
  error_of<Interrupted>([&] { evaluate(transformer, *source_, bytes_, options); });
  set_received_signal(0);
  EXPECT_TRUE(transformer.is_training());
}

TEST_F(EvaluateTest, RefusesDataOfAnotherTokenizer) {
  model::Transformer transformer(transformer_config("dense", 30));
  const std::string message = error_of<DataError>([&] { evaluate(transformer, *source_, bytes_); });
  EXPECT_NE(message.find("vocabulary ends at 29"), std::string::npos) << message;
}

TEST_F(EvaluateTest, RefusesDataWithoutAToken) {
  model::Transformer transformer(transformer_config("dense"));
  error_of<DataError>([&] { evaluate(transformer, windows({}, 0, 8, 2), bytes_); });
}

TEST(Windows, PredictEveryTokenOnceFromTheTokenBeforeIt) {
  Ids ids(23);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i + 1);
  const auto batches = windows(ids, 0, 5, 2);
  ASSERT_EQ(batches.size(), 3u);
  EXPECT_EQ(batches[2].num_sequences, 1);
  Ids labels;
  int64_t row = 0;
  for (const data::Batch& batch : batches) {
    EXPECT_EQ(batch.sequence_length, 5);
    for (const int64_t index : batch.global_sequence_index) EXPECT_EQ(index, row++);
    for (size_t i = 0; i < batch.labels.size(); ++i) {
      EXPECT_EQ(batch.position_ids[i], static_cast<int32_t>(i % 5));
      if (batch.labels[i] < 0) continue;
      EXPECT_EQ(batch.input_ids[i], batch.labels[i] - 1);  // the first is the end of document, 0
      labels.push_back(batch.labels[i]);
    }
  }
  EXPECT_EQ(labels, ids);
  EXPECT_EQ(row, 5);
}

TEST(Windows, AreNoLongerThanTheText) {
  const auto batches = windows({4, 5, 6}, 0, 100, 2);
  ASSERT_EQ(batches.size(), 1u);
  EXPECT_EQ(batches[0].input_ids, (Ids{0, 4, 5}));
  EXPECT_EQ(batches[0].labels, (Ids{4, 5, 6}));
}

TEST(Windows, CountTheBytesOfTheWholeText) {
  const ListTokenizer tokenizer({"a", "bcd", " ", "\xc3\xa9"});
  const std::string text = "a bcda\xc3\xa9 a";
  model::Transformer transformer(transformer_config("dense"));
  const Score score =
      evaluate(transformer, windows(tokenizer.encode(text), 0, 3, 2), bytes_per_token(tokenizer))
          .total;
  EXPECT_EQ(score.tokens, 7);
  EXPECT_EQ(score.bytes, static_cast<int64_t>(text.size()));
}

TEST(BytesPerToken, GivesTheEndOfDocumentNone) {
  EXPECT_EQ(bytes_per_token(ListTokenizer({"ab", "\xc3"})), (Ids{0, 2, 1}));
}

}  // namespace
}  // namespace locus::eval
