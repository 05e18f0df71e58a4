#include "locus/eval/beam_search.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "locus/base/error.h"
#include "tests/eval/eval_helpers.h"
#include "tests/support/expect_error.h"

namespace locus::eval {
namespace {

using Ids = std::vector<int32_t>;

constexpr int32_t kEod = 0;

std::shared_ptr<model::Transformer> make(int64_t vocab_size, uint64_t seed = 5) {
  model::TransformerConfig config = transformer_config("top_k", vocab_size);
  config.model.num_hidden_layers = 4;
  config.model.num_encoder_layers = 2;
  config.seed = seed;
  return std::make_shared<model::Transformer>(config);
}

at::Tensor row(const Ids& ids) {
  return at::tensor(std::vector<int64_t>(ids.begin(), ids.end()), at::kLong).unsqueeze(0);
}

// log p of a translation in one pass without a cache, with its end or without.
double log_probability(model::Transformer& model, const Ids& text, Ids ids, bool with_end = true) {
  const at::NoGradGuard no_grad;
  Ids source = text;
  source.push_back(kEod);
  Ids label = ids;
  if (with_end) label.push_back(kEod);
  ids.insert(ids.begin(), kEod);
  ids.resize(label.size());
  model::TransformerInput input;
  input.source_ids_BL = row(source);
  input.source_position_ids_BL = at::arange(input.source_ids_BL.size(1), at::kLong).unsqueeze(0);
  input.input_ids_BS = row(ids);
  input.position_ids_BS = at::arange(input.input_ids_BS.size(1), at::kLong).unsqueeze(0);
  const at::Tensor hidden = model.forward(input).hidden_TD;
  const at::Tensor log_p =
      at::log_softmax(at::mm(hidden, model.output_weight().t()), 1, at::kDouble);
  return log_p.gather(1, row(label).t()).sum().item<double>();
}

// The best of all translations; one of `longest` tokens is cut off there.
Translation exhaustive(model::Transformer& model, const Ids& text, int32_t vocab_size,
                       size_t longest, double length_penalty) {
  Translation best;
  best.score = -INFINITY;
  std::vector<Ids> open{{}};
  for (size_t length = 0; length <= longest; ++length) {
    std::vector<Ids> longer;
    for (const Ids& ids : open) {
      const double log_p = log_probability(model, text, ids, /*with_end=*/length < longest);
      const size_t told = length < longest ? length + 1 : length;
      const double score = log_p / std::pow(static_cast<double>(told), length_penalty);
      if (score > best.score) best = {ids, log_p, score};
      for (int32_t id = 1; id < vocab_size; ++id) {
        longer.push_back(ids);
        longer.back().push_back(id);
      }
    }
    open = std::move(longer);
  }
  return best;
}

TEST(BeamSearch, WithABeamForEachFindsTheBestOfAllTranslations) {
  constexpr int32_t kVocab = 5;
  constexpr size_t kLongest = 3;
  for (const uint64_t seed : {1u, 2u, 3u, 4u}) {
    const auto model = make(kVocab, seed);
    model->eval();
    const Ids text{1, 3, 2};
    for (const double penalty : {0.0, 1.0, 3.0}) {
      const Translation found = beam_search(*model, kEod, kVocab, {text},
                                            {.num_beams = 4 * 4 * 4,
                                             .length_penalty = penalty,
                                             .max_length_ratio = 0,
                                             .max_length_extra = kLongest})[0];
      const Translation want = exhaustive(*model, text, kVocab, kLongest, penalty);
      EXPECT_EQ(found.ids, want.ids) << "seed " << seed << ", penalty " << penalty;
      EXPECT_NEAR(found.score, want.score, 1e-4);
    }
  }
}

TEST(BeamSearch, TellsTheProbabilityThatTheModelGives) {
  const auto model = make(kVocabSize);
  model->eval();
  for (const double penalty : {0.0, 1.0, 2.0}) {
    const Ids text{4, 9, 30, 2, 17};
    const Translation found = beam_search(*model, kEod, kVocabSize, {text},
                                          {.num_beams = 3, .length_penalty = penalty})[0];
    const bool has_end = found.ids.size() < 22;  // of a text of six tokens
    const double want = log_probability(*model, text, found.ids, has_end);
    EXPECT_NEAR(found.log_probability, want, 1e-3);
    const auto length = static_cast<double>(found.ids.size() + (has_end ? 1 : 0));
    EXPECT_NEAR(found.score, want / std::pow(length, penalty), 1e-3);
  }
}

TEST(BeamSearch, OfOneBeamTakesTheLikeliestTokenEachTime) {
  int64_t ended = 0;
  for (uint64_t seed = 9; seed < 21; ++seed) {
    const auto model = make(kVocabSize, seed);
    model->eval();
    const at::NoGradGuard no_grad;
    const Ids text{4, 9, 30, 2};
    const Translation found = beam_search(*model, kEod, kVocabSize, {text}, {.num_beams = 1})[0];
    Ids source = text, ids{kEod};
    source.push_back(kEod);
    constexpr size_t kLimit = 20;  // of a text of five tokens
    for (size_t t = 0; t < kLimit; ++t) {
      model::TransformerInput input;
      input.source_ids_BL = row(source);
      input.source_position_ids_BL = at::arange(5, at::kLong).unsqueeze(0);
      input.input_ids_BS = row(ids);
      input.position_ids_BS = at::arange(std::ssize(ids), at::kLong).unsqueeze(0);
      const at::Tensor last = model->forward(input).hidden_TD[-1];
      ids.push_back(
          static_cast<int32_t>(at::mv(model->output_weight(), last).argmax().item<int64_t>()));
      if (ids.back() == kEod) break;
    }
    ended += ids.back() == kEod;
    if (ids.back() == kEod) ids.pop_back();
    ids.erase(ids.begin());
    EXPECT_EQ(found.ids, ids) << seed;
  }
  EXPECT_GT(ended, 0) << "some translations have to end by themselves";
}

TEST(BeamSearch, NeverTakesTokensThatTheTokenizerLacks) {
  const auto model = make(kVocabSize, 11);
  const auto found = beam_search(*model, kEod, 12, {{4, 9, 3}, {1}}, {.num_beams = 5});
  for (const Translation& one : found) {
    for (const int32_t id : one.ids) EXPECT_LT(id, 12);
  }
  EXPECT_THROW(beam_search(*model, kEod, kVocabSize + 1, {{1}}, {}), DataError);
}

TEST(BeamSearch, SaysThatAModelIsBroken) {
  const auto model = make(kVocabSize, 11);
  const at::NoGradGuard no_grad;
  model->parameters()[0].fill_(NAN);
  EXPECT_THROW(beam_search(*model, kEod, kVocabSize, {{1}}, {}), DivergedError);
}

TEST(BeamSearch, GivesEachTextTheSameInABatchAsAlone) {
  const auto model = make(kVocabSize, 11);
  const std::vector<Ids> texts{{4, 9, 30, 2, 8, 8}, {7}, {}, {12, 13, 14}, {1, 2}};
  const auto together = beam_search(*model, kEod, kVocabSize, texts, {.num_beams = 4});
  for (size_t i = 0; i < texts.size(); ++i) {
    const auto alone = beam_search(*model, kEod, kVocabSize, {texts[i]}, {.num_beams = 4});
    EXPECT_EQ(together[i].ids, alone[0].ids) << i;
    EXPECT_NEAR(together[i].score, alone[0].score, 1e-4) << i;
  }
  EXPECT_TRUE(model->is_training()) << "the mode that it was in";
}

TEST(BeamSearch, RefusesWhatItCannotDo) {
  const auto model = make(kVocabSize);
  using test::error_of;
  const auto refusal = [&](const std::vector<Ids>& texts, const BeamSearchOptions& options) {
    return error_of<ConfigError>([&] { beam_search(*model, kEod, kVocabSize, texts, options); });
  };
  EXPECT_NE(refusal({{1}}, {.num_beams = 0}).find("num_beams = 0"), std::string::npos);
  EXPECT_NE(refusal({{1}}, {.batch_size = 0}).find("batch_size = 0"), std::string::npos);
  EXPECT_NE(refusal({{1}}, {.length_penalty = NAN}).find("length_penalty"), std::string::npos);
  EXPECT_NE(refusal({{1}, Ids(48, 2)}, {}).find("text 2 has 48 tokens"), std::string::npos);
}

}  // namespace
}  // namespace locus::eval
