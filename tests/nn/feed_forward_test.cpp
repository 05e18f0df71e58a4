#include "locus/nn/feed_forward.h"

#include <gtest/gtest.h>

#include "locus/nn/linear.h"
#include "tests/reference/feed_forward_reference.h"
#include "tests/support/tensors.h"

namespace locus::nn {
namespace {

using test::distance;
using test::matrix_of;
using test::random_tensor;
using test::row_of;

template <class Module>
void randomise(Module& module, at::ScalarType type) {
  const at::NoGradGuard no_grad;
  module.to(type);
  uint64_t seed = 20;
  for (at::Tensor& parameter : module.parameters())
    parameter.copy_(random_tensor(parameter.sizes(), seed++));
}

TEST(FeedForward, EqualsLoopsAndItsGradientTheFiniteDifferences) {
  for (const char* activation : {"swiglu", "gelu_new"}) {
    for (const bool with_bias : {false, true}) {
      FeedForward layer(5, 7, ops::parse_activation(activation), with_bias);
      randomise(layer, at::kDouble);
      const auto named = layer.named_parameters();
      EXPECT_EQ(named.size(), with_bias ? 4u : 2u);
      reference::FeedForward net{
          matrix_of(named["up_proj"]), {}, matrix_of(named["down_proj"]), {}};
      if (with_bias) {
        net.up_bias = row_of(named["up_proj_bias"]);
        net.down_bias = row_of(named["down_proj_bias"]);
      }
      const at::Tensor x = test::random_leaf({6, 5}, 1), probe = random_tensor({6, 5}, 2);
      reference::Matrix want;
      for (const reference::Row& row : matrix_of(x))
        want.push_back(reference::feed_forward(net, row, activation));
      EXPECT_LT(distance(layer.forward(x), want), 1e-13);
      std::vector<at::Tensor> leaves = layer.parameters();
      leaves.push_back(x);
      test::expect_gradients(leaves, [&] { return (layer.forward(x) * probe).sum(); });
    }
  }
}

TEST(FeedForward, TakesNoTokens) {
  FeedForward layer(5, 7, ops::Activation::kSwiglu, true);
  randomise(layer, at::kFloat);
  EXPECT_EQ(layer.forward(at::empty({0, 5})).sizes(), (std::vector<int64_t>{0, 5}));
}

TEST(Linear, EqualsLoopsInTheTypeOfItsInput) {
  Linear layer(4, 3, true);
  randomise(layer, at::kFloat);
  const at::Tensor x = random_tensor({6, 4}, 3, at::kFloat);
  reference::Matrix want;
  for (const reference::Row& row : matrix_of(x)) {
    want.push_back(reference::linear(matrix_of(layer.weight), row_of(layer.bias), row));
  }
  EXPECT_LT(distance(layer.forward(x), want), 1e-6);
  const at::Tensor low = layer.forward(x.to(at::kBFloat16));
  EXPECT_EQ(low.scalar_type(), at::kBFloat16);
  EXPECT_LT(distance(low, want), 0.03);
  low.sum().backward();
  EXPECT_EQ(layer.weight.grad().scalar_type(), at::kFloat);
}

}  // namespace
}  // namespace locus::nn
