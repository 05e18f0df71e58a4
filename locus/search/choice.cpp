#include "locus/search/choice.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "locus/base/error.h"
#include "locus/base/format.h"

namespace locus::search {
namespace {

constexpr double kSmallShare = 0.005;
constexpr double kAboveAll = 2;  // of branches: above the ranks of other units

std::vector<size_t> rising(const std::vector<double>& ranks) {
  std::vector<size_t> order(ranks.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return ranks[a] < ranks[b]; });
  return order;
}

bool is_branch(UnitKind kind) { return branch_of(kind) == kind; }

class Chooser {
 public:
  Chooser(const CostModel& costs, const std::vector<double>& ranks,
          const std::vector<Limit>& limits, const Mask& candidates)
      : costs_(costs),
        space_(costs.space()),
        limits_(limits),
        order_(rising(ranks)),
        candidates_(candidates),
        mask_(candidates) {
    find_small_groups();
  }

  Mask choose() {
    // What one unit leaves may let another one go: a slot, and then an expert.
    bool moves = true;
    while (!fits(mask_) && moves) {
      moves = false;
      for (const size_t unit : order_) {
        if (fits(mask_)) break;
        if (stays(unit) || !space_.can_drop(mask_, unit)) continue;
        mask_[unit] = 0;
        mask_ = space_.active(mask_);
        moves = true;
      }
    }
    if (!fits(mask_)) refuse();
    for (auto unit = order_.rbegin(); unit != order_.rend(); ++unit) {
      if (candidates_[*unit] == 0 || !space_.can_add(mask_, *unit)) continue;
      mask_[*unit] = 1;
      if (!fits(mask_)) mask_[*unit] = 0;
    }
    return mask_;
  }

 private:
  bool fits(const Mask& mask) const {
    return std::all_of(limits_.begin(), limits_.end(), [&](const Limit& limit) {
      return costs_.cost(limit.resource, mask) <= limit.most;
    });
  }

  void find_small_groups() {
    is_small_.assign(space_.units().size(), 1);
    const std::vector<double> all(space_.units().size(), 1.0);
    for (const Limit& limit : limits_) {
      const std::vector<double> slopes = costs_.slopes(limit.resource, all);
      for (const UnitGroup& group : space_.groups()) {
        double sum = 0;
        for (size_t unit = group.begin; unit < group.end; ++unit) sum += slopes[unit];
        if (sum < kSmallShare * costs_.whole(limit.resource)) continue;
        std::fill(is_small_.begin() + static_cast<std::ptrdiff_t>(group.begin),
                  is_small_.begin() + static_cast<std::ptrdiff_t>(group.end), 0);
      }
    }
  }
  bool stays(size_t unit) const { return is_small_[unit] != 0; }

  [[noreturn]] void refuse() const {
    std::string text;
    for (const Limit& limit : limits_) {
      const double least = costs_.cost(limit.resource, mask_);
      if (least <= limit.most) continue;
      text += format("{}budget {}: the least that can be left is {} = {:.4g}{}",
                     text.empty() ? "" : "\n", limit.text, resource_name(limit.resource),
                     least / costs_.whole(limit.resource), " of the whole model's");
    }
    throw ConfigError("{}", text);
  }

  const CostModel& costs_;
  const ArchSpace& space_;
  const std::vector<Limit>& limits_;
  const std::vector<size_t> order_;
  const Mask& candidates_;
  Mask mask_;
  std::vector<uint8_t> is_small_;
};

}  // namespace

std::vector<double> proportional_ranks(const ArchSpace& space,
                                       const std::vector<double>& importance) {
  std::vector<double> ranks(space.units().size());
  LOCUS_CHECK(importance.size() == ranks.size(), "importance of {} units of {}", importance.size(),
              ranks.size());
  double largest = 0;  // of branches
  for (const UnitGroup& group : space.groups()) {
    if (is_branch(group.kind)) largest = std::max(largest, importance[group.begin]);
  }
  for (const UnitGroup& group : space.groups()) {
    if (is_branch(group.kind)) {
      ranks[group.begin] = kAboveAll + (largest > 0 ? importance[group.begin] / largest : 0);
      continue;
    }
    std::vector<size_t> by_importance(group.size());
    std::iota(by_importance.begin(), by_importance.end(), group.begin);
    if (group.kind != UnitKind::kSlot) {
      std::stable_sort(by_importance.begin(), by_importance.end(),
                       [&](size_t a, size_t b) { return importance[a] > importance[b]; });
    }
    // A slot is the second of a token's experts, or a later one: the first always stays.
    const size_t before = group.kind == UnitKind::kSlot ? 1 : 0;
    const auto count = static_cast<double>(group.size() + before);
    for (size_t i = 0; i < by_importance.size(); ++i) {
      ranks[by_importance[i]] = 1 - (2 * static_cast<double>(i + before) + 1) / count;
    }
  }
  return ranks;
}

Mask choose_units(const CostModel& costs, const std::vector<double>& ranks,
                  const std::vector<Limit>& limits, const Mask& candidates) {
  return Chooser(costs, ranks, limits, candidates).choose();
}

}  // namespace locus::search
