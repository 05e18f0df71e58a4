#include "locus/nn/recompute.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/support/tensors.h"

namespace locus::nn {
namespace {

using test::random_leaf;
using test::random_tensor;

struct Counted {
  at::Tensor weight = random_leaf({4, 4}, 1);
  int first = 0, replays = 0;

  std::vector<at::Tensor> run(const at::Tensor& x, bool is_replay) {
    ++(is_replay ? replays : first);
    const at::Tensor y = x.matmul(weight).tanh();
    return {y, y.square().mean()};
  }
  std::vector<at::Tensor> recomputed(const at::Tensor& x) {
    return recompute({x}, [this](const std::vector<at::Tensor>& in, bool is_replay) {
      return run(in[0], is_replay);
    });
  }
};

at::Tensor loss_of(const std::vector<at::Tensor>& out) { return out[0].sum() + 3 * out[1]; }

TEST(Recompute, GivesTheValuesAndGradientsOfThePlainComputation) {
  Counted plain, again;
  const at::Tensor x = random_leaf({5, 4}, 2), x2 = random_leaf({5, 4}, 2);
  const at::Tensor want = loss_of(plain.run(x, false)), got = loss_of(again.recomputed(x2));
  EXPECT_TRUE(at::equal(got, want));
  want.backward();
  EXPECT_EQ(again.replays, 0);
  got.backward();
  EXPECT_TRUE(at::equal(x2.grad(), x.grad()));
  EXPECT_TRUE(at::equal(again.weight.grad(), plain.weight.grad()));
  EXPECT_EQ(again.first, 1);
  EXPECT_EQ(again.replays, 1);
}

TEST(Recompute, AddsToTheGradientsOfParametersOncePerPass) {
  Counted layer;
  const at::Tensor x = random_leaf({5, 4}, 3);
  loss_of(layer.recomputed(x)).backward();
  const at::Tensor once = layer.weight.grad().clone();
  loss_of(layer.recomputed(x)).backward();
  EXPECT_TRUE(at::equal(layer.weight.grad(), once + once));
}

TEST(Recompute, KeepsNoGraphOfItsFirstPass) {
  const at::Tensor x = random_leaf({5, 4}, 4);
  bool with_gradients = true;
  recompute({x}, [&](const std::vector<at::Tensor>& in, bool) {
    with_gradients = at::GradMode::is_enabled();
    return std::vector<at::Tensor>{in[0] * 2};
  });
  EXPECT_FALSE(with_gradients);
}

TEST(Recompute, ChainsAndNests) {
  Counted a, b, c, d;
  d.weight = random_leaf({4, 4}, 5);
  b.weight = d.weight.detach().clone().requires_grad_(true);
  const at::Tensor x = random_leaf({5, 4}, 6), x2 = random_leaf({5, 4}, 6);
  const auto plain = [&](const at::Tensor& in) { return b.run(a.run(in, false)[0], false); };
  loss_of(plain(x)).backward();
  // The outer function is computed again, and so is the inner one within it.
  const auto nested = recompute({x2}, [&](const std::vector<at::Tensor>& in, bool) {
    return d.recomputed(c.recomputed(in[0])[0]);
  });
  loss_of(nested).backward();
  EXPECT_TRUE(at::equal(x2.grad(), x.grad()));
  EXPECT_TRUE(at::equal(c.weight.grad(), a.weight.grad()));
  EXPECT_TRUE(at::equal(d.weight.grad(), b.weight.grad()));
  EXPECT_EQ(c.replays, 1);
}

TEST(Recompute, LeavesOutputsWithoutGradientAlone) {
  const at::Tensor x = random_leaf({3}, 7);
  const auto out = recompute({x}, [](const std::vector<at::Tensor>& in, bool) {
    return std::vector<at::Tensor>{in[0] * 2, at::zeros({}, at::kDouble)};
  });
  (out[0].sum() + out[1]).backward();
  EXPECT_TRUE(at::equal(x.grad(), at::full({3}, 2, at::kDouble)));
}

TEST(Recompute, TakesOneOutputOfSeveral) {
  Counted plain, again;
  const at::Tensor x = random_leaf({5, 4}, 8), x2 = random_leaf({5, 4}, 8);
  plain.run(x, false)[1].backward();
  again.recomputed(x2)[1].backward();
  EXPECT_TRUE(at::equal(x2.grad(), x.grad()));
  EXPECT_TRUE(at::equal(again.weight.grad(), plain.weight.grad()));
}

TEST(Recompute, GivesGradientsToAllOfItsInputs) {
  const at::Tensor x = random_leaf({5, 4}, 11), y = random_leaf({5, 4}, 12);
  const auto product = [](const std::vector<at::Tensor>& in, bool) {
    return std::vector<at::Tensor>{(in[0] * in[1]).sin()};
  };
  // The second one is no leaf: what it was made from gets its gradient once.
  recompute({x, y * 3}, product)[0].sum().backward();
  const at::Tensor slope = (x * y * 3).cos().detach() * 3;
  EXPECT_TRUE(at::allclose(x.grad(), slope * y.detach()));
  EXPECT_TRUE(at::allclose(y.grad(), slope * x.detach()));
}

TEST(Recompute, HasTheGradientsOfTheFiniteDifferences) {
  Counted layer;
  const at::Tensor x = random_leaf({5, 4}, 9);
  test::expect_gradients({x, layer.weight}, [&] { return loss_of(layer.recomputed(x)); });
}

TEST(Recompute, ForgetsItsClosureWithTheGraph) {
  auto token = std::make_shared<int>(1);
  {
    const at::Tensor x = random_leaf({3}, 10);
    const auto out = recompute({x}, [token](const std::vector<at::Tensor>& in, bool) {
      return std::vector<at::Tensor>{in[0] * 2};
    });
    EXPECT_GT(token.use_count(), 1);
    out[0].sum().backward();
  }
  EXPECT_EQ(token.use_count(), 1);
}

}  // namespace
}  // namespace locus::nn
