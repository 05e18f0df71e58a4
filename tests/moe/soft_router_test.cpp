#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/moe/router_helpers.h"

namespace locus::moe {
namespace {

TEST(SoftRouter, GivesEveryTokenAllExpertsByTheSoftmax) {
  const at::Tensor x = random_input(9, 4);
  const Routing routing = identity_router(config_of("soft"), 4)->route(x, tokens_of(9));
  expect_routing(routing, reference::top_k(matrix_of(x), {.k = 4, .norm = false}));
  EXPECT_EQ(routing.assignment.token_N.numel(), 36);
  EXPECT_FALSE(routing.aux_loss.defined());  // loads are even whatever it does
}

}  // namespace
}  // namespace locus::moe
