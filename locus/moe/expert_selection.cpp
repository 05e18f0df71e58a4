#include "locus/moe/expert_selection.h"

#include <ATen/ATen.h>

#include <cmath>
#include <vector>

#include "locus/moe/router_math.h"

namespace locus::moe {
namespace {

// An affinity's place among 2^18 steps from -1 to 1, found digit by digit.
constexpr int kLevels = 3, kDigitBits = 6;
constexpr int64_t kDigits = int64_t{1} << kDigitBits;
constexpr int64_t kSteps = int64_t{1} << (kLevels * kDigitBits);
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

at::Tensor steps_of(const at::Tensor& affinity_N) {
  const at::Tensor share_N = (affinity_N.nan_to_num(-1.0) + 1) / 2;
  return (share_N * static_cast<double>(kSteps)).floor().clamp(0, kSteps - 1).to(at::kLong);
}

// Whole numbers, of which float64 holds any sum exactly, in whatever order the ranks add them: in
// parts so small that those of all tokens stay below 2^52.
at::Tensor masses_of(const at::Tensor& probability_N, int64_t num_tokens) {
  const double parts = std::exp2(51 - std::ceil(std::log2(static_cast<double>(num_tokens + 1))));
  return (probability_N.to(at::kDouble).nan_to_num(0.0) * parts).round();
}

std::vector<double> numbers_of(const at::Tensor& x) {
  const at::Tensor values = x.to(at::kCPU, at::kDouble).contiguous();
  return {values.const_data_ptr<double>(), values.const_data_ptr<double>() + values.numel()};
}

// One expert on its way down from the highest affinity.
struct Expert {
  double count = 0, mass = 0;              // that it has taken
  double total_count = 0, total_mass = 0;  // that have named it
  int64_t prefix = 0;                      // the digits so far of the last step that it takes from
  bool takes_some = true;
  double lowest = kNan;

  bool takes_more(const SelectionLimits& limits) const {
    const bool is_wanted = limits.rho >= 1 || mass < limits.rho * total_mass ||
                           count < static_cast<double>(limits.floor);
    return is_wanted && count < static_cast<double>(limits.ceiling);
  }
};

// Candidates and their mass by expert and next digit, of all ranks: [2, E, digits].
at::Tensor histogram(const TokenPool& pool, const at::Tensor& expert_N, const at::Tensor& digit_N,
                     const at::Tensor& mass_N, int64_t num_experts) {
  const at::Tensor cell_N = expert_N * kDigits + digit_N;
  const at::Tensor both_N = at::stack({at::ones_like(mass_N), mass_N});
  return pool.sum(
      at::zeros({2, num_experts * kDigits}, mass_N.options()).index_add(1, cell_N, both_N));
}

// Down to the last digit of which the expert takes something.
void descend(Expert& expert, const double* count, const double* mass,
             const SelectionLimits& limits) {
  int64_t last = -1;
  Expert at_last = expert;
  for (int64_t digit = kDigits - 1; digit >= 0 && expert.takes_more(limits); --digit) {
    if (count[digit] == 0) continue;
    last = digit;
    at_last = expert;
    expert.count += count[digit];
    expert.mass += mass[digit];
  }
  expert = at_last;
  expert.takes_some = last >= 0;
  expert.prefix = expert.prefix * kDigits + last;
}

at::Tensor prefixes(const std::vector<Expert>& experts, const at::Tensor& like) {
  std::vector<int64_t> prefix_E;
  for (const Expert& one : experts) prefix_E.push_back(one.takes_some ? one.prefix : kSteps);
  return at::tensor(prefix_E, at::kLong).to(like.device());
}

}  // namespace

Selection select_by_experts(const Candidates& candidates, int64_t num_experts, int64_t num_tokens,
                            const SelectionLimits& limits, const TokenPool& pool,
                            const TokenContext& tokens) {
  const at::Tensor& expert_N = candidates.expert_N;
  const at::Tensor step_N = steps_of(candidates.affinity_N);
  const at::Tensor mass_N = masses_of(candidates.probability_N, num_tokens * pool.num_ranks());
  std::vector<Expert> experts(static_cast<size_t>(num_experts));
  for (int level = 0; level < kLevels; ++level) {
    const int shift = (kLevels - 1 - level) * kDigitBits;
    const at::Tensor head_N = step_N.bitwise_right_shift(shift);
    // Those that have the digits so far.
    const at::Tensor is_open_N = head_N.bitwise_right_shift(kDigitBits)
                                     .eq(prefixes(experts, expert_N).index_select(0, expert_N));
    const at::Tensor open_N = at::nonzero(is_open_N).squeeze(1);
    const auto of_open = [&](const at::Tensor& x) { return x.index_select(0, open_N); };
    const std::vector<double> sums =
        numbers_of(histogram(pool, of_open(expert_N), of_open(head_N).bitwise_and(kDigits - 1),
                             of_open(mass_N), num_experts));
    for (size_t e = 0; e < experts.size(); ++e) {
      const double* count = sums.data() + e * kDigits;
      const double* mass = count + num_experts * kDigits;
      for (int64_t digit = 0; level == 0 && digit < kDigits; ++digit) {
        experts[e].total_count += count[digit];
        experts[e].total_mass += mass[digit];
      }
      if (experts[e].takes_some) descend(experts[e], count, mass, limits);
    }
  }

  // What is left to decide: the candidates of each expert's last step, in the order of the batch.
  const at::Tensor last_N = prefixes(experts, expert_N).index_select(0, expert_N);
  const at::Tensor left_N = at::nonzero(step_N.eq(last_N)).squeeze(1);
  const auto of_left = [&](const at::Tensor& x) { return x.index_select(0, left_N); };
  PooledRows rows = pooled_rows(pool, tokens, of_left(candidates.token_N));
  const std::vector<at::Tensor> all =
      rows.gather_together({of_left(expert_N), of_left(candidates.affinity_N), of_left(mass_N)},
                           /*is_even=*/false);
  const std::vector<double> expert_of = numbers_of(all[0]), affinity_of = numbers_of(all[1]),
                            mass_of = numbers_of(all[2]);
  const at::Tensor order = precedence("probs", all[1]).cpu();
  std::vector<uint8_t> is_taken(static_cast<size_t>(order.numel()), 0);
  for (int64_t i = 0; i < order.numel(); ++i) {
    const auto row = static_cast<size_t>(order.const_data_ptr<int64_t>()[i]);
    Expert& expert = experts[static_cast<size_t>(expert_of[row])];
    if (!expert.takes_more(limits)) continue;
    is_taken[row] = 1;
    expert.lowest = affinity_of[row];
    expert.count += 1;
    expert.mass += mass_of[row];
  }

  std::vector<double> lowest;
  for (const Expert& one : experts) {
    lowest.push_back(one.count > 0 && one.count == one.total_count ? kTookAll : one.lowest);
  }
  const at::Tensor taken = at::tensor(is_taken, at::kByte).to(at::kBool).to(expert_N.device());
  at::Tensor keep_N = step_N.gt(last_N);
  keep_N.index_put_({left_N}, rows.own(taken));
  return {keep_N, at::tensor(lowest, at::kDouble).to(expert_N.device())};
}

}  // namespace locus::moe
