#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/moe/router_helpers.h"

namespace locus::moe {
namespace {

double length(const reference::Row& row) {
  double sum = 0;
  for (const double value : row) sum += value * value;
  return std::sqrt(sum);
}

TEST(XmoeRouter, ScoresByTheCosineInTheSmallSpace) {
  for (const bool normalize : {true, false}) {
    RouterConfig config = config_of("xmoe");
    config.top_k = 2;
    auto router = make_router(
        config, context_of(5, 8),
        options_of("xmoe", std::string("temperature = 0.5\n") +
                               "normalize_tokens = " + (normalize ? "true" : "false") + "\n"));
    const at::Tensor x = random_input(20, 8);
    auto parameters = router->named_parameters();
    const reference::Matrix token = matrix_of(x), proj = matrix_of(parameters["proj"]),
                            embedding = matrix_of(parameters["embedding"]);
    reference::Matrix logits;
    for (const reference::Row& row : token) {
      reference::Row small;
      for (const reference::Row& axis : proj) {
        double sum = 0;
        for (size_t d = 0; d < row.size(); ++d) sum += axis[d] * row[d];
        small.push_back(sum);
      }
      reference::Row scores;
      for (const reference::Row& expert : embedding) {
        double dot = 0;
        for (size_t c = 0; c < small.size(); ++c) dot += small[c] * expert[c];
        scores.push_back(dot / length(expert) / (normalize ? length(small) : 1) / 0.5);
      }
      logits.push_back(scores);
    }
    expect_routing(router->route(x, tokens_of(20)),
                   reference::top_k(logits, {.k = 2, .norm = false}));
  }
}

TEST(XmoeRouter, IsBlindToTheLengthOfATokenAndLearnsItsTemperature) {
  auto router = make_router(config_of("xmoe"), context_of(4, 8), options_of("xmoe"));
  const at::Tensor x = random_input(12, 8);
  const Routing routing = router->route(x, tokens_of(12));
  EXPECT_TRUE(at::allclose(router->route(x * 100, tokens_of(12)).weight_N, routing.weight_N));
  routing.weight_N.sum().backward();
  EXPECT_NE(router->named_parameters()["log_temperature"].grad().item<double>(), 0);
}

TEST(XmoeRouter, NamesWrongSettings) {
  EXPECT_EQ(only_problem(config_of("xmoe"), 4, "temperature = 0.0\n"),
            "moe.xmoe.temperature = 0: must be above 0");
}

}  // namespace
}  // namespace locus::moe
