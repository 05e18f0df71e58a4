#include "locus/moe/balance_loss.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/moe/router_helpers.h"

namespace locus::moe {
namespace {

Routing losses(const RouterConfig& config, const LossInputs& inputs) {
  Routing routing;
  add_losses(config, inputs, routing);
  return routing;
}

RouterConfig scoped(const char* scope) {
  RouterConfig config;
  config.aux_loss_coeff = 0.25;
  config.aux_loss_scope = scope;
  return config;
}

// Eight tokens in two sequences, four experts, one choice each.
LossInputs inputs_of(const at::Tensor& probability_TE, const at::Tensor& expert_T) {
  LossInputs inputs;
  inputs.probability_TE = probability_TE;
  inputs.logits_TE = at::log(probability_TE);
  inputs.requested_TK = expert_T.unsqueeze(1);
  inputs.requested_E = at::bincount(expert_T, {}, 4).to(at::kFloat);
  inputs.num_sequences = 2;
  return inputs;
}

class BalanceLossScopes : public testing::TestWithParam<const char*> {};

TEST_P(BalanceLossScopes, IsTheCoefficientWhenUniform) {
  const at::Tensor expert_T = at::arange(4, at::kLong).repeat({2});
  const Routing routing = losses(scoped(GetParam()), inputs_of(at::full({8, 4}, 0.25f), expert_T));
  EXPECT_EQ(routing.aux_loss.item<double>(), 0.25);
  EXPECT_EQ(routing.balance_loss.item<double>(), 0.25);
  EXPECT_FALSE(routing.z_loss.defined());
}

TEST_P(BalanceLossScopes, IsTheCoefficientTimesTheExpertsWhenAllGoToOneSurely) {
  at::Tensor probability_TE = at::zeros({8, 4});
  probability_TE.select(1, 2).fill_(1);
  const Routing routing =
      losses(scoped(GetParam()), inputs_of(probability_TE, at::full({8}, 2, at::kLong)));
  EXPECT_EQ(routing.aux_loss.item<double>(), 1.0);
}

TEST_P(BalanceLossScopes, IsZeroForZeroTokens) {
  const Routing routing =
      losses(scoped(GetParam()), inputs_of(at::empty({0, 4}), at::empty({0}, at::kLong)));
  EXPECT_EQ(routing.aux_loss.item<double>(), 0.0);
}

INSTANTIATE_TEST_SUITE_P(Scopes, BalanceLossScopes,
                         testing::Values("micro_batch", "sequence", "global_batch"));

TEST(BalanceLoss, AgreesWithThePlainLoop) {
  const at::Tensor logits = random_input(24, 5);
  const at::Tensor requested_TK = std::get<1>(at::topk(logits, 2, 1));
  const auto p = reference::softmax(matrix_of(logits));
  std::vector<std::vector<int64_t>> requested;
  for (int64_t t = 0; t < 24; ++t) requested.push_back(list_of(requested_TK[t]));
  const at::Tensor p_TE = at::softmax(logits, 1);
  const at::Tensor count_E = at::bincount(requested_TK.reshape(-1), {}, 5);

  EXPECT_NEAR(balance_loss(p_TE, count_E).item<double>(),
              reference::balance_loss(p, requested, 0, 24), 1e-6);
  double by_sequence = 0;
  for (size_t s = 0; s < 3; ++s) {
    by_sequence += reference::balance_loss(p, requested, s * 8, s * 8 + 8) / 3;
  }
  EXPECT_NEAR(sequence_balance_loss(p_TE, requested_TK, 3).item<double>(), by_sequence, 1e-6);
  EXPECT_NEAR(z_loss(logits).item<double>(), reference::z_loss(matrix_of(logits)), 1e-5);
}

TEST(BalanceLoss, SeesLopsidedSequencesOnlyInItsSequenceScope) {
  // Each sequence uses one half of the experts; together they are even.
  const at::Tensor expert_T = at::tensor({0, 1, 0, 1, 2, 3, 2, 3}, at::kLong);
  at::Tensor probability_TE = at::zeros({8, 4});
  probability_TE.slice(0, 0, 4).slice(1, 0, 2).fill_(0.5);
  probability_TE.slice(0, 4, 8).slice(1, 2, 4).fill_(0.5);
  const LossInputs inputs = inputs_of(probability_TE, expert_T);
  EXPECT_EQ(losses(scoped("micro_batch"), inputs).aux_loss.item<double>(), 0.25);
  EXPECT_EQ(losses(scoped("sequence"), inputs).aux_loss.item<double>(), 0.5);
}

TEST(BalanceLoss, LooksAtAllMicroBatchesSoFarInItsGlobalScope) {
  // This micro-batch sends all to expert 0, the ones before it filled the others.
  at::Tensor probability_TE = at::zeros({8, 4});
  probability_TE.select(1, 0).fill_(1);
  LossInputs inputs = inputs_of(probability_TE, at::zeros({8}, at::kLong));
  inputs.requested_E = at::tensor({8.0f, 8.0f, 8.0f, 8.0f});
  EXPECT_EQ(losses(scoped("global_batch"), inputs).aux_loss.item<double>(), 0.25);
  EXPECT_EQ(losses(scoped("micro_batch"), inputs).aux_loss.item<double>(), 1.0);
}

TEST(BalanceLoss, AddsTheZLoss) {
  RouterConfig config = scoped("micro_batch");
  config.z_loss_coeff = 0.5;
  LossInputs inputs = inputs_of(at::full({8, 4}, 0.25f), at::arange(4, at::kLong).repeat({2}));
  inputs.logits_TE = at::zeros({8, 4});
  const Routing routing = losses(config, inputs);
  const double z = 0.5 * std::log(4.0) * std::log(4.0);
  EXPECT_NEAR(routing.z_loss.item<double>(), z, 1e-6);
  EXPECT_NEAR(routing.aux_loss.item<double>(), 0.25 + z, 1e-6);
}

TEST(BalanceLoss, IsAbsentWithoutCoefficients) {
  RouterConfig config;
  config.aux_loss_coeff = 0;
  const Routing routing =
      losses(config, inputs_of(at::full({8, 4}, 0.25f), at::zeros({8}, at::kLong)));
  EXPECT_FALSE(routing.aux_loss.defined());
  EXPECT_FALSE(routing.balance_loss.defined());
}

// The norms hold against central differences of the losses over the logits, in float64.
TEST(SquaredGradient, IsThatOfFiniteDifferences) {
  const at::Tensor logits_TE = at::randn({8, 4}, at::detail::createCPUGenerator(5), at::kDouble);
  RouterConfig config = scoped("micro_batch");
  config.z_loss_coeff = 0.5;
  const auto routing_at = [&](const at::Tensor& logits, bool with_gradients) {
    LossInputs inputs = inputs_of(at::softmax(logits, 1), at::arange(8, at::kLong) % 3);
    inputs.logits_TE = logits;
    inputs.with_gradients = with_gradients;
    return losses(config, inputs);
  };
  double balance = 0, z = 0;
  constexpr double kStep = 1e-6;
  for (int64_t i = 0; i < logits_TE.numel(); ++i) {
    const auto moved = [&](double by) {
      at::Tensor logits = logits_TE.clone();
      logits.view(-1)[i] += by;
      return routing_at(logits, false);
    };
    const Routing above = moved(kStep), below = moved(-kStep);
    const auto square = [&](const at::Tensor& high, const at::Tensor& low) {
      return std::pow((high - low).item<double>() / (2 * kStep), 2);
    };
    balance += square(above.balance_loss, below.balance_loss);
    z += square(above.z_loss, below.z_loss);
  }
  const at::NoGradGuard no_grad;  // as in the first pass of a recomputed layer
  const Routing routing = routing_at(logits_TE, true);
  EXPECT_NEAR(routing.balance_gradient.item<double>(), balance, 1e-6 * balance);
  EXPECT_NEAR(routing.z_gradient.item<double>(), z, 1e-6 * z);
  EXPECT_FALSE(routing_at(logits_TE, false).balance_gradient.defined()) << "nobody looks";
}

}  // namespace
}  // namespace locus::moe
