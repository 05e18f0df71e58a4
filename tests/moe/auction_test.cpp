#include "locus/moe/auction.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "locus/comm/thread_ranks.h"
#include "locus/placement/balanced_assignment.h"
#include "tests/moe/router_helpers.h"

namespace locus::moe {
namespace {

at::Tensor places(int64_t num_tokens, int64_t first = 0) {
  return at::arange(first, first + num_tokens, at::kLong);
}

at::Tensor auction(const at::Tensor& score_TE) {
  return auction_experts(score_TE, places(score_TE.size(0)), TokenPool());
}

double total(const at::Tensor& score_TE, const at::Tensor& expert_T) {
  return score_TE.gather(1, expert_T.unsqueeze(1)).sum(at::kDouble).item<double>();
}

// The highest sum there is, by shortest paths.
double best_total(const at::Tensor& score_TE) {
  const at::Tensor cost = -score_TE.to(at::kDouble).contiguous();
  const int64_t num_tokens = cost.size(0), num_experts = cost.size(1);
  const std::vector<int64_t> room(static_cast<size_t>(num_experts),
                                  (num_tokens + num_experts - 1) / num_experts);
  const std::vector<int64_t> place = placement::balanced_assignment(
      {cost.const_data_ptr<double>(), static_cast<size_t>(cost.numel())}, room);
  return total(score_TE, at::tensor(place, at::kLong));
}

double range(const at::Tensor& score_TE) {
  return (score_TE.max() - score_TE.min()).item<double>();
}

void expect_balanced(const at::Tensor& expert_T, int64_t num_experts) {
  const int64_t num_tokens = expert_T.size(0);
  ASSERT_GE(expert_T.min().item<int64_t>(), 0);
  const at::Tensor count_E = at::bincount(expert_T, {}, num_experts);
  EXPECT_EQ(count_E.numel(), num_experts);
  EXPECT_LE(count_E.max().item<int64_t>(), (num_tokens + num_experts - 1) / num_experts);
}

TEST(Auction, GivesTheWorkedExamples) {
  // Token 1 goes to expert 0 at any rate; with it go 0 or 2, for 26.
  const at::Tensor first = at::tensor({9., 8., 7., 1., 6., 5., 5., 5.}).view({4, 2});
  EXPECT_EQ(total(first, auction(first)), 26);
  const at::Tensor second = at::tensor({4., 1., 3., 2., 2., 2., 5., 0.}).view({4, 2});
  EXPECT_EQ(list_of(auction(second)), (std::vector<int64_t>{0, 1, 1, 0}));
}

TEST(Auction, GivesEveryExpertItsShareAndNearlyTheBestSum) {
  uint64_t seed = 0;
  for (const auto& [num_tokens, num_experts] : std::vector<std::pair<int64_t, int64_t>>{
           {8, 2}, {6, 3}, {64, 8}, {256, 8}, {512, 64}, {7, 2}, {100, 7}, {3, 5}, {9, 1}}) {
    for (int64_t time = 0; time < 10; ++time) {
      const at::Tensor score = random_input(num_tokens, num_experts, ++seed);
      const at::Tensor expert_T = auction(score);
      expect_balanced(expert_T, num_experts);
      const double bound = static_cast<double>(num_tokens) * range(score) / 100;
      const double best = best_total(score);
      EXPECT_LE(total(score, expert_T), best + 1e-6);
      EXPECT_GE(total(score, expert_T), best - bound);
    }
  }
}

// As many tokens as a micro-batch has, clustered as hidden states are: a goal of this project.
TEST(Auction, IsWithinAThousandthOfTheBestSum) {
  const int64_t num_tokens = 4096, num_experts = 64, dim = 128;
  const at::Tensor center_ED = random_input(num_experts, dim, 5);
  const at::Tensor popular_T =
      (at::rand({num_tokens}, at::detail::createCPUGenerator(6)).square() * num_experts)
          .to(at::kLong);
  const at::Tensor x_TD =
      center_ED.index_select(0, popular_T) * 0.7 + random_input(num_tokens, dim, 7);
  const at::Tensor score = at::mm(x_TD, center_ED.t()) * 0.01;
  const at::Tensor expert_T = auction(score);
  expect_balanced(expert_T, num_experts);
  EXPECT_GE(total(score, expert_T), best_total(score) * 0.999);
}

TEST(Auction, BreaksTiesByPlaceAndSurvivesWhatIsNotFinite) {
  const auto expect_even = [](const at::Tensor& score) {
    expect_balanced(auction(score), score.size(1));
  };
  expect_even(at::zeros({64, 4}));
  expect_even(at::full({12, 3}, -7.5));
  EXPECT_EQ(list_of(auction(at::tensor({1., 0., 1., 0., 1., 0., 1., 0.}).view({4, 2}))),
            (std::vector<int64_t>{0, 0, 1, 1}));
  for (uint64_t seed = 1; seed <= 20; ++seed) {  // whole numbers, so many ties; the maximum, too
    expect_even((random_input(64, 4, seed) * 2).round());
  }
  at::Tensor same_rows = random_input(64, 4);
  same_rows.narrow(0, 0, 40).copy_(at::tensor({9.f, 9.f, 9.f, 9.f}).expand({40, 4}));
  expect_even(same_rows);
  at::Tensor broken = random_input(40, 4);
  broken[3].fill_(std::numeric_limits<float>::quiet_NaN());
  broken[5][1] = std::numeric_limits<float>::infinity();
  broken[6][2] = -std::numeric_limits<float>::infinity();
  expect_even(broken);
  expect_even(at::full({8, 4}, std::numeric_limits<float>::quiet_NaN()));
  EXPECT_EQ(auction(at::empty({0, 4})).numel(), 0);
}

// One token more than there is room for at all experts but one, which nobody wants.
TEST(Auction, EndsSoonWhereAFewTokensHaveNowhereToGo) {
  const int64_t num_tokens = 2048, num_experts = 8, room = num_tokens / num_experts;
  at::Tensor score = random_input(num_tokens, num_experts, 3) * 0.01;
  const at::Tensor is_crowd_T = at::arange(num_tokens, at::kLong).lt((num_experts - 1) * room + 1);
  score.narrow(1, 0, num_experts - 1).add_(is_crowd_T.to(at::kFloat).unsqueeze(1));
  const at::Tensor expert_T = auction(score);
  expect_balanced(expert_T, num_experts);
  EXPECT_GE(total(score, expert_T), best_total(score) - static_cast<double>(num_tokens) * 0.01);
}

TEST(Auction, DoesNotCareForWhatATokenAddsToAllItsScores) {
  const at::Tensor score = random_input(128, 8, 3).to(at::kDouble);
  const at::Tensor shifted = score + random_input(128, 1, 4).to(at::kDouble) * 3;
  const double bound = 128 * (range(score) + range(shifted)) / 100;
  EXPECT_NEAR(total(score, auction(score)), total(score, auction(shifted)), bound);
}

TEST(Auction, IsTheSameWhateverRanksTheTokensAreOn) {
  const int64_t num_tokens = 96, num_experts = 8, num_ranks = 4;
  const at::Tensor score = (random_input(num_tokens, num_experts, 2) * 4).round();  // with ties
  const at::Tensor alone = auction(score);
  // Rank r has the tokens r, r + 4, ...
  comm::run_thread_ranks(num_ranks, {}, [&](const comm::ParallelContext& context) {
    const at::Tensor own = at::arange(context.rank, num_tokens, num_ranks, at::kLong);
    const at::Tensor expert_T =
        auction_experts(score.index_select(0, own), own, TokenPool(context.world));
    EXPECT_TRUE(at::equal(expert_T, alone.index_select(0, own)));
  });
}

}  // namespace
}  // namespace locus::moe
