#include "locus/eval/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "locus/base/error.h"
#include "tests/support/expect_error.h"

namespace locus::eval {
namespace {

using test::error_of;
using Ids = std::vector<int32_t>;
using Logits = std::vector<float>;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

Logits log_of(const std::vector<double>& probabilities) {
  Logits logits;
  for (const double p : probabilities) logits.push_back(static_cast<float>(std::log(p)));
  return logits;
}

Ids ids_of(const std::vector<Sampler::Candidate>& candidates) {
  Ids ids;
  for (const auto& candidate : candidates) ids.push_back(candidate.id);
  return ids;
}

void expect_distribution(const std::vector<Sampler::Candidate>& got, const Ids& ids,
                         const std::vector<double>& probabilities) {
  ASSERT_EQ(ids_of(got), ids);
  for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i].probability, probabilities[i], 1e-6);
}

TEST(Sampler, DrawsFromTheSoftmaxWithoutFilters) {
  const Sampler sampler({});
  expect_distribution(sampler.candidates(log_of({0.1, 0.6, 0.3}), {}), {0, 1, 2}, {0.1, 0.6, 0.3});
}

TEST(Sampler, TakesTheBestTokenAtTemperatureZeroAndTheLowestIdAmongEqualOnes) {
  const Sampler sampler({.temperature = 0});
  EXPECT_EQ(sampler.sample(Logits{0.5f, 2, 1}, {}, 0, 0), 1);
  EXPECT_EQ(sampler.sample(Logits{0.5f, 2, 1, 2}, {}, 0, 0), 1);
}

TEST(Sampler, DividesLogitsByTheTemperature) {
  const Sampler cold({.temperature = 0.5});  // squares the odds
  expect_distribution(cold.candidates(log_of({0.25, 0.75}), {}), {0, 1}, {0.1, 0.9});
  const Sampler icy({.temperature = 1e-6});
  EXPECT_EQ(icy.sample(Logits{80, 81, -80}, {}, 0, 0), 1);
}

TEST(Sampler, KeepsExactlyTopKTokens) {
  const Logits logits = log_of({0.1, 0.4, 0.2, 0.3});
  const Sampler two({.top_k = 2});
  expect_distribution(two.candidates(logits, {}), {1, 3}, {4.0 / 7, 3.0 / 7});
  EXPECT_EQ(ids_of(Sampler({.top_k = 1}).candidates(logits, {})), Ids({1}));
  EXPECT_EQ(ids_of(Sampler({.top_k = 9}).candidates(logits, {})), Ids({0, 1, 2, 3}));
  EXPECT_EQ(ids_of(two.candidates(Logits{1, 1, 1, 1}, {})), Ids({0, 1}));
}

TEST(Sampler, KeepsTheFewestTokensThatHoldTopP) {
  const Logits logits = log_of({0.125, 0.5, 0.0625, 0.3125});
  EXPECT_EQ(ids_of(Sampler({.top_p = 0.01}).candidates(logits, {})), Ids({1}));
  EXPECT_EQ(ids_of(Sampler({.top_p = 0.49}).candidates(logits, {})), Ids({1}));
  EXPECT_EQ(ids_of(Sampler({.top_p = 0.51}).candidates(logits, {})), Ids({1, 3}));
  EXPECT_EQ(ids_of(Sampler({.top_p = 0.82}).candidates(logits, {})), Ids({0, 1, 3}));
  EXPECT_EQ(ids_of(Sampler({.top_p = 0.99}).candidates(logits, {})), Ids({0, 1, 2, 3}));
  EXPECT_EQ(ids_of(Sampler({.top_p = 0.3}).candidates(Logits{1, 1, 1, 1}, {})), Ids({0, 1}));
}

TEST(Sampler, AppliesTopPToWhatTopKLeft) {
  // Of 0.4 and 0.3, the first alone holds 4/7.
  const Sampler sampler({.top_k = 2, .top_p = 0.55});
  EXPECT_EQ(ids_of(sampler.candidates(log_of({0.1, 0.4, 0.2, 0.3}), {})), Ids({1}));
}

TEST(Sampler, PenalizesEachTokenOfTheTextOnceTowardsLessLikely) {
  // 2 -> 1, -1 -> -2, 0.5 stays; then the temperature.
  const Sampler sampler({.temperature = 2, .repetition_penalty = 2});
  const double a = std::exp(0.5), b = std::exp(-1.0), c = std::exp(0.25);
  expect_distribution(sampler.candidates(Logits{2, -1, 0.5f}, Ids{1, 0, 1}), {0, 1, 2},
                      {a / (a + b + c), b / (a + b + c), c / (a + b + c)});
  EXPECT_EQ(Sampler({.temperature = 0, .repetition_penalty = 5}).sample(Logits{2, 1}, Ids{0}, 0, 0),
            1);
}

TEST(Sampler, DrawsAsOftenAsTheProbabilitiesSay) {
  const std::vector<double> probabilities = {0.05, 0.2, 0.45, 0.3};
  const Logits logits = log_of(probabilities);
  const Sampler sampler({.seed = 3});
  constexpr int kDraws = 20000;
  std::vector<int> counts(4, 0);
  for (uint64_t i = 0; i < kDraws; ++i) {
    ++counts[static_cast<size_t>(sampler.sample(logits, {}, i % 7, i))];
  }
  double chi_square = 0;
  for (size_t i = 0; i < 4; ++i) {
    const double expected = probabilities[i] * kDraws;
    chi_square += (counts[i] - expected) * (counts[i] - expected) / expected;
  }
  EXPECT_LT(chi_square, 16.3);  // 3 degrees of freedom, 99.9 %
}

TEST(Sampler, DrawsByKeyAlone) {
  const Logits logits(50, 0.0f);
  const auto draws = [&](uint64_t seed, uint64_t prompt) {
    const Sampler sampler({.seed = seed});
    Ids ids;
    for (uint64_t i = 0; i < 20; ++i) ids.push_back(sampler.sample(logits, {}, prompt, i));
    return ids;
  };
  EXPECT_EQ(draws(1, 0), draws(1, 0));
  EXPECT_NE(draws(1, 0), draws(2, 0));
  EXPECT_NE(draws(1, 0), draws(1, 1));
}

TEST(Sampler, NeverDrawsAnImpossibleToken) {
  const Sampler sampler({.top_k = 3});
  EXPECT_EQ(ids_of(sampler.candidates(Logits{-kInfinity, 0, -kInfinity}, {})), Ids({1}));
}

TEST(Sampler, RefusesOutputThatIsNotFinite) {
  const Sampler sampler({});
  for (const Logits& logits : {Logits{0, kNan}, Logits{kInfinity, 0}, Logits{-kInfinity}}) {
    const std::string message = error_of<DivergedError>([&] { sampler.candidates(logits, {}); });
    EXPECT_NE(message.find("the model's output is not finite"), std::string::npos) << message;
  }
}

TEST(Sampler, NamesAllImpossibleOptions) {
  const std::string message = error_of<ConfigError>(
      [] { Sampler({.temperature = -1, .top_k = -2, .top_p = 0, .repetition_penalty = 0}); });
  for (const char* problem :
       {"temperature = -1", "top_k = -2", "top_p = 0", "repetition_penalty = 0"}) {
    EXPECT_NE(message.find(problem), std::string::npos) << message;
  }
  error_of<ConfigError>([] { Sampler({.temperature = kNan}); });
  error_of<ConfigError>([] { Sampler({.top_p = 1.01}); });
}

}  // namespace
}  // namespace locus::eval
