#include "locus/moe/expert_selection.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <mutex>
#include <vector>

#include "locus/comm/thread_ranks.h"
#include "tests/moe/router_helpers.h"
#include "tests/support/tensors.h"

namespace locus::moe {
namespace {

constexpr int64_t kExperts = 5, kTokens = 240;
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

struct Case {
  Candidates candidates;
  int64_t num_tokens = kTokens;
};

// Each token names two experts. `near`: affinities that no histogram can tell apart.
Case random_case(uint64_t seed, bool near) {
  const at::Generator generator = at::detail::createCPUGenerator(seed);
  const int64_t n = 2 * kTokens;
  Case one;
  one.candidates.token_N = at::arange(n, at::kLong).div(2, "floor");
  one.candidates.expert_N =
      at::randint(kExperts - 1, {n}, generator, at::kLong);  // the last: nobody
  const at::Tensor affinity = at::randn({n}, generator, at::kDouble) * 0.2;
  one.candidates.affinity_N = near ? 0.1 + (affinity * 20).round() * 1e-9 : affinity;
  one.candidates.probability_N = at::rand({n}, generator, at::kDouble);
  one.candidates.affinity_N[7] = kNan;
  one.candidates.affinity_N[8] = -std::numeric_limits<double>::infinity();
  one.candidates.probability_N[9] = kNan;
  return one;
}

struct Expected {
  std::vector<bool> keep;
  std::vector<double> lowest;
};

// The rule as it is written, with all candidates in one place.
Expected by_loops(const Case& one, const SelectionLimits& limits) {
  const std::vector<int64_t> expert = list_of(one.candidates.expert_N);
  const std::vector<double> affinity = test::row_of(one.candidates.affinity_N),
                            p = test::row_of(one.candidates.probability_N);
  const auto value = [&](size_t n) { return std::isnan(affinity[n]) ? -INFINITY : affinity[n]; };
  const auto mass = [&](size_t n) { return std::isnan(p[n]) ? 0 : p[n]; };
  Expected out{std::vector<bool>(expert.size()), std::vector<double>(kExperts, kNan)};
  for (int64_t e = 0; e < kExperts; ++e) {
    std::vector<size_t> named;
    for (size_t n = 0; n < expert.size(); ++n) {
      if (expert[n] == e) named.push_back(n);
    }
    std::stable_sort(named.begin(), named.end(),
                     [&](size_t a, size_t b) { return value(a) > value(b); });
    double total = 0, before = 0;
    for (const size_t n : named) total += mass(n);
    size_t place = 0;
    for (; place < named.size(); ++place) {
      const bool is_wanted = limits.rho >= 1 || before < limits.rho * total ||
                             static_cast<int64_t>(place) < limits.floor;
      if (!is_wanted || static_cast<int64_t>(place) >= limits.ceiling) break;
      out.keep[named[place]] = true;
      before += mass(named[place]);
    }
    if (place > 0) out.lowest[static_cast<size_t>(e)] = affinity[named[place - 1]];
    if (place > 0 && place == named.size()) out.lowest[static_cast<size_t>(e)] = kTookAll;
  }
  return out;
}

std::vector<bool> bools_of(const at::Tensor& keep_N) {
  const std::vector<int64_t> list = list_of(keep_N.to(at::kLong));
  return {list.begin(), list.end()};
}

void expect_lowest(const at::Tensor& lowest_E, const std::vector<double>& expected) {
  const std::vector<double> lowest = test::row_of(lowest_E);
  for (size_t e = 0; e < expected.size(); ++e) {
    if (std::isnan(expected[e])) {
      EXPECT_TRUE(std::isnan(lowest[e])) << "expert " << e;
    } else {
      EXPECT_EQ(lowest[e], expected[e]) << "expert " << e;
    }
  }
}

const std::vector<SelectionLimits> kLimits = {{},
                                              {.rho = 0.7},
                                              {.rho = 0.3, .floor = 30},
                                              {.rho = 0.3, .floor = 3, .ceiling = 20},
                                              {.ceiling = 40},
                                              {.rho = 0.01},
                                              {.ceiling = 1}};

TEST(ExpertSelection, IsTheRuleOfPlainLoops) {
  for (const bool near : {false, true}) {
    for (uint64_t seed = 1; seed <= 20; ++seed) {
      const Case one = random_case(seed, near);
      for (const SelectionLimits& limits : kLimits) {
        const Selection selection = select_by_experts(one.candidates, kExperts, kTokens, limits,
                                                      TokenPool(), tokens_of(kTokens));
        const Expected expected = by_loops(one, limits);
        EXPECT_EQ(bools_of(selection.keep_N), expected.keep) << seed << ", rho " << limits.rho;
        expect_lowest(selection.lowest_E, expected.lowest);
      }
    }
  }
}

at::Tensor rows(const at::Tensor& x, const at::Tensor& which) { return x.index_select(0, which); }

// Ranks have the tokens that `token_of_rank` says, [ranks, tokens of each].
void expect_the_same_on(int64_t num_ranks, const at::Tensor& token_of_rank, bool is_placed) {
  for (const bool near : {false, true}) {
    const Case one = random_case(5, near);
    for (const SelectionLimits& limits : kLimits) {
      const Expected expected = by_loops(one, limits);
      std::mutex mutex;
      comm::run_thread_ranks(num_ranks, {}, [&](const comm::ParallelContext& parallel) {
        const at::Tensor own_T = token_of_rank[parallel.rank];
        const at::Tensor first_N = own_T.repeat_interleave(2) * 2;
        const at::Tensor own_N = first_N + at::arange(first_N.numel(), at::kLong).remainder(2);
        const int64_t num_tokens = own_T.numel();
        TokenContext tokens = tokens_of(num_tokens);
        tokens.global_index_T = own_T;
        tokens.is_placed = is_placed;
        const Candidates candidates{at::arange(num_tokens, at::kLong).repeat_interleave(2),
                                    rows(one.candidates.expert_N, own_N),
                                    rows(one.candidates.affinity_N, own_N),
                                    rows(one.candidates.probability_N, own_N)};
        const Selection selection = select_by_experts(candidates, kExperts, num_tokens, limits,
                                                      TokenPool(parallel.world), tokens);
        const std::vector<bool> keep = bools_of(selection.keep_N);
        const std::lock_guard lock(mutex);
        for (size_t n = 0; n < keep.size(); ++n) {
          const auto all = static_cast<size_t>(list_of(own_N)[n]);
          EXPECT_EQ(keep[n], expected.keep[all]) << "candidate " << all << ", rho " << limits.rho;
        }
        expect_lowest(selection.lowest_E, expected.lowest);
      });
    }
  }
}

TEST(ExpertSelection, IsTheSameOnAnyNumberOfRanks) {
  for (const int64_t num_ranks : {2, 4}) {
    expect_the_same_on(num_ranks, at::arange(kTokens, at::kLong).view({num_ranks, -1}), false);
  }
}

TEST(ExpertSelection, IsTheSameWhereverSequencesAreComputed) {
  const at::Tensor shuffled =
      at::randperm(kTokens, at::detail::createCPUGenerator(2), at::kLong).view({4, -1});
  expect_the_same_on(4, shuffled, true);
}

TEST(ExpertSelection, CountsRanksThatHaveNoCandidate) {
  const Case one = random_case(3, false);
  const SelectionLimits limits{.rho = 0.4, .ceiling = 30};
  const Expected expected = by_loops(one, limits);
  comm::run_thread_ranks(2, {}, [&](const comm::ParallelContext& parallel) {
    const at::Tensor none = at::empty({0}, at::kLong);
    const Candidates candidates =
        parallel.rank == 0 ? one.candidates
                           : Candidates{none, none, none.to(at::kDouble), none.to(at::kDouble)};
    const Selection selection =
        select_by_experts(candidates, kExperts, kTokens, limits, TokenPool(parallel.world),
                          tokens_of(kTokens, parallel.rank * kTokens));
    if (parallel.rank == 0) {
      EXPECT_EQ(bools_of(selection.keep_N), expected.keep);
    } else {
      EXPECT_EQ(selection.keep_N.numel(), 0);
    }
    expect_lowest(selection.lowest_E, expected.lowest);
  });
}

TEST(ExpertSelection, ChoosesByFloat32Too) {
  Case one = random_case(4, false);
  one.candidates.affinity_N = one.candidates.affinity_N.to(at::kFloat);
  one.candidates.probability_N = one.candidates.probability_N.to(at::kFloat);
  const Selection selection =
      select_by_experts(one.candidates, kExperts, kTokens, {.rho = 0.5}, {}, tokens_of(kTokens));
  const Expected expected = by_loops(one, {.rho = 0.5});
  EXPECT_EQ(bools_of(selection.keep_N), expected.keep);
  expect_lowest(selection.lowest_E, expected.lowest);
}

TEST(ExpertSelection, OfNothingTakesNothing) {
  const at::Tensor none = at::empty({0}, at::kLong), values = at::empty({0}, at::kFloat);
  const Selection selection =
      select_by_experts({none, none, values, values}, 3, 0, {.rho = 0.5}, {}, tokens_of(0));
  EXPECT_EQ(selection.keep_N.numel(), 0);
  EXPECT_TRUE(selection.lowest_E.isnan().all().item<bool>());
}

TEST(ExpertSelection, OfTokensWithoutAnyMassTakesTheFloor) {
  const at::Tensor three = at::arange(3, at::kLong), zeros = at::zeros({3}, at::kLong);
  const Candidates candidates{three, zeros, at::tensor({0.1f, 0.3f, 0.2f}), at::zeros({3})};
  const auto keep = [&](const SelectionLimits& limits) {
    return bools_of(select_by_experts(candidates, 1, 3, limits, {}, tokens_of(3)).keep_N);
  };
  EXPECT_EQ(keep({.rho = 0.5}), (std::vector<bool>{false, false, false}));
  EXPECT_EQ(keep({.rho = 0.5, .floor = 2}), (std::vector<bool>{false, true, true}));
}

}  // namespace
}  // namespace locus::moe
