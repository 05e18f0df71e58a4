#include "locus/search/choice.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

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

// In the unit that a limit is given in.
std::string cost_text(Resource resource, double cost) {
  if (resource == Resource::kLatency) return format("{:.4g} ms", cost * 1e3);
  const char* unit = resource == Resource::kMemory || resource == Resource::kExchange ? "B" : "";
  if (cost >= 1e9) return format("{:.4g}G{}", cost / 1e9, unit);
  if (cost >= 1e6) return format("{:.4g}M{}", cost / 1e6, unit);
  return format("{:.4g}K{}", cost / 1e3, unit);
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
    for (const Limit& limit : limits_) {
      std::vector<double>& own = by_layer_.emplace_back();
      double sum = 0;
      for (size_t layer = 0; layer < space_.layers().size(); ++layer) {
        own.push_back(cost_of(limit, layer));
        sum += own.back();
      }
      constant_.push_back(costs_.cost(limit.resource, mask_) - sum);
    }
    find_small_kinds();
  }

  Mask choose() {
    // What one unit leaves may let another one go: a slot, and then an expert.
    bool moves = true;
    while (!fits() && moves) {
      moves = false;
      for (const size_t unit : order_) {
        if (fits()) break;
        if (stays(unit) || !space_.can_drop(mask_, unit)) continue;
        if (is_branch(space_.units()[unit].kind)) {
          space_.drop_branch(mask_, unit);
        } else {
          mask_[unit] = 0;
        }
        update(unit);
        moves = true;
      }
    }
    if (!fits()) refuse();
    // A branch that is gone stays gone: it would come back bare.
    for (auto unit = order_.rbegin(); unit != order_.rend(); ++unit) {
      const bool is_wanted = candidates_[*unit] != 0 && !is_branch(space_.units()[*unit].kind);
      if (!is_wanted || !space_.can_add(mask_, *unit)) continue;
      mask_[*unit] = 1;
      update(*unit);
      if (fits()) continue;
      mask_[*unit] = 0;
      update(*unit);
    }
    return mask_;
  }

 private:
  double cost_of(const Limit& limit, size_t layer) const {
    return costs_.of_layer(limit.resource, layer, space_.layer_sizes(mask_, layer)).cost;
  }
  // After this unit came or went.
  void update(size_t unit) {
    const auto layer = static_cast<size_t>(space_.units()[unit].layer);
    for (size_t i = 0; i < limits_.size(); ++i) by_layer_[i][layer] = cost_of(limits_[i], layer);
  }
  double cost(size_t limit) const {
    return std::accumulate(by_layer_[limit].begin(), by_layer_[limit].end(), constant_[limit]);
  }
  bool fits() const {
    for (size_t i = 0; i < limits_.size(); ++i) {
      if (cost(i) > limits_[i].most) return false;
    }
    return true;
  }

  // A kind that saves too little even when as much of it goes as can.
  void find_small_kinds() {
    std::set<UnitKind> kinds;
    for (const Unit& unit : space_.units()) kinds.insert(unit.kind);
    for (const UnitKind kind : kinds) {
      Mask least = space_.all();
      for (size_t unit = least.size(); unit-- > 0;) {
        if (space_.units()[unit].kind != kind || !space_.can_drop(least, unit)) continue;
        if (is_branch(kind)) {
          space_.drop_branch(least, unit);
        } else {
          least[unit] = 0;
        }
      }
      for (const Limit& limit : limits_) {
        const double whole = costs_.whole(limit.resource);
        if (whole - costs_.cost(limit.resource, least) >= kSmallShare * whole) moving_.insert(kind);
      }
    }
  }
  bool stays(size_t unit) const { return !moving_.contains(space_.units()[unit].kind); }

  [[noreturn]] void refuse() const {
    std::string text;
    for (size_t i = 0; i < limits_.size(); ++i) {
      const Limit& limit = limits_[i];
      const double least = cost(i);
      if (least <= limit.most) continue;
      const double share = std::ceil(1e4 * least / costs_.whole(limit.resource)) / 1e4;
      text +=
          format("{}budget {}: the least that can be left is {} = {:.4f} of the whole model's, {}",
                 text.empty() ? "" : "\n", limit.text, resource_name(limit.resource), share,
                 cost_text(limit.resource, least));
    }
    throw ConfigError("{}", text);
  }

  const CostModel& costs_;
  const ArchSpace& space_;
  const std::vector<Limit>& limits_;
  const std::vector<size_t> order_;
  const Mask& candidates_;
  Mask mask_;
  std::vector<std::vector<double>> by_layer_;  // costs of each limit's resource
  std::vector<double> constant_;
  std::set<UnitKind> moving_;
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
