#include "locus/ops/input_probe.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <map>
#include <stdexcept>

#include "locus/ops/feed_forward.h"
#include "locus/ops/linear.h"

namespace locus::ops {
namespace {

using Seen = std::map<size_t, std::vector<at::Tensor>>;

InputProbe::See into(Seen& seen) {
  return [&seen](size_t number, const at::Tensor& x) { seen[number].push_back(x); };
}

TEST(InputProbe, SeesTheInputsOfItsWeightsAlone) {
  const at::Tensor wanted = at::randn({4, 3}).requires_grad_(), other = at::randn({4, 3});
  const at::Tensor x = at::randn({2, 5, 3}).requires_grad_();
  Seen seen;
  {
    const InputProbe probe({at::randn({1, 3}), wanted}, into(seen));
    ops::linear(x, other, at::Tensor());
    ops::linear(x, wanted, at::Tensor());
  }
  ops::linear(x, wanted, at::Tensor());
  ASSERT_EQ(seen.size(), 1u);
  ASSERT_EQ(seen[1].size(), 1u);
  EXPECT_TRUE(seen[1][0].equal(x));
  EXPECT_FALSE(seen[1][0].requires_grad());
}

// On the CPU's kernels and on libtorch's (double), of all groups and of some of them.
TEST(InputProbe, SeesTheChannelsOfFeedForwardNetworks) {
  for (const Activation activation : {Activation::kSwiglu, Activation::kGelu}) {
    for (const at::ScalarType type : {at::kFloat, at::kDouble}) {
      const auto random = [type](std::initializer_list<int64_t> shape) {
        return at::randn(shape).to(type);
      };
      const FeedForwardWeights weights{
          random({2, up_rows(activation, 6), 3}), {}, random({2, 3, 6}), {}};
      const at::Tensor x_ND = random({7, 3});
      Seen seen;
      {
        const InputProbe probe({weights.down_EDF}, into(seen));
        grouped_feed_forward(x_ND, {4, 3}, weights, activation);
        grouped_feed_forward(
            x_ND.narrow(0, 4, 3), {3},
            {weights.up_EUD.narrow(0, 1, 1), {}, weights.down_EDF.narrow(0, 1, 1), {}}, activation);
      }
      const auto channels = [&](int64_t e, int64_t begin, int64_t rows) {
        return apply_activation(x_ND.narrow(0, begin, rows).mm(weights.up_EUD[e].t()), activation);
      };
      ASSERT_EQ(seen[0].size(), 2u);
      EXPECT_TRUE(
          at::allclose(seen[0][0], at::cat({channels(0, 0, 4), channels(1, 4, 3)}), 1e-5, 1e-6));
      EXPECT_TRUE(at::allclose(seen[0][1], channels(1, 4, 3), 1e-5, 1e-6));
    }
  }
}

TEST(InputProbe, IsOneOnAThreadAndOfDifferentWeights) {
  const at::Tensor weight = at::randn({2, 2});
  EXPECT_THROW(InputProbe({weight, weight.t()}, [](size_t, const at::Tensor&) {}),
               std::logic_error);
  const InputProbe probe({weight}, [](size_t, const at::Tensor&) {});
  EXPECT_THROW(InputProbe({weight}, [](size_t, const at::Tensor&) {}), std::logic_error);
}

}  // namespace
}  // namespace locus::ops
