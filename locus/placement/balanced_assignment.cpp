// Successive shortest paths. Items are placed one by one; each takes the cheapest chain "I go to a,
// one of a moves to b, one of b to c, and c has room". All items of a place are alike to the chain
// but for their costs, so it is a path among K places, not among N items: for each pair of places
// a heap tells the item that moves at the least cost.
#include "locus/placement/balanced_assignment.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <queue>
#include <utility>

#include "locus/base/error.h"

namespace locus::placement {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

class Assignment {
 public:
  Assignment(std::span<const double> cost_NK, std::span<const int64_t> room_K)
      : cost_(cost_NK),
        room_(room_K.begin(), room_K.end()),
        num_places_(room_.size()),
        place_(cost_NK.size() / std::max<size_t>(1, num_places_)),
        movers_(num_places_ * num_places_),
        least_cost_(num_places_ * num_places_, kInfinity) {
    for (const double cost : cost_NK) rounding_ = std::max(rounding_, 1e-12 * std::abs(cost));
  }

  std::vector<int64_t> solve() {
    for (size_t item = 0; item < place_.size(); ++item) add(item);
    return {place_.begin(), place_.end()};
  }

 private:
  struct Mover {
    double cost;
    size_t item;
    bool operator>(const Mover& other) const {
      return cost > other.cost || (cost == other.cost && item > other.item);
    }
  };
  using Heap = std::priority_queue<Mover, std::vector<Mover>, std::greater<>>;

  double cost(size_t item, size_t place) const { return cost_[item * num_places_ + place]; }

  void add(size_t item) {
    const double* row = cost_.data() + item * num_places_;
    const auto best = static_cast<size_t>(std::min_element(row, row + num_places_) - row);
    // No chain is cheaper than the best place: one that begins there and ends elsewhere would have
    // made the items before this one cheaper, too.
    if (room_[best] > 0) {
      put(item, best);
      --room_[best];
      return;
    }
    place_by_chain(item);
  }

  void put(size_t item, size_t place) {
    place_[item] = place;
    for (size_t other = 0; other < num_places_; ++other) {
      if (other == place) continue;
      const double more = cost(item, other) - cost(item, place);
      heap(place, other).push({more, item});
      double& least = least_cost_[place * num_places_ + other];
      least = std::min(least, more);
    }
  }

  void move(size_t item, size_t place) {
    const size_t from = place_[item];
    put(item, place);
    for (size_t other = 0; other < num_places_; ++other) {
      if (other == from) continue;
      Heap& movers = heap(from, other);
      while (!movers.empty() && place_[movers.top().item] != from) movers.pop();
      least_cost_[from * num_places_ + other] = movers.empty() ? kInfinity : movers.top().cost;
    }
  }

  Heap& heap(size_t from, size_t to) { return movers_[from * num_places_ + to]; }

  void place_by_chain(size_t item) {
    std::vector<double> distance(num_places_);
    std::vector<size_t> before(num_places_, num_places_);  // num_places_: the item itself
    for (size_t k = 0; k < num_places_; ++k) distance[k] = cost(item, k);
    // Bellman and Ford: a move may gain. No cycle does, since what is placed is placed best; what
    // rounding makes of a cycle without gain must not send us round.
    std::vector<char> is_new(num_places_, 1);  // nearer since its moves were last looked at
    bool changed = true;
    for (size_t round = 0; changed && round < num_places_; ++round) {
      changed = false;
      for (size_t from = 0; from < num_places_; ++from) {
        if (!std::exchange(is_new[from], 0)) continue;
        const double* least_cost = least_cost_.data() + from * num_places_;
        for (size_t to = 0; to < num_places_; ++to) {
          const double through = distance[from] + least_cost[to];
          if (through >= distance[to] - rounding_) continue;
          distance[to] = through;
          before[to] = from;
          is_new[to] = 1;
          changed = true;
        }
      }
    }
    size_t end = num_places_;
    for (size_t k = 0; k < num_places_; ++k) {
      if (room_[k] > 0 && (end == num_places_ || distance[k] < distance[end])) end = k;
    }
    LOCUS_CHECK(end < num_places_, "more items than room");
    --room_[end];
    size_t to = end;
    for (size_t length = 0; before[to] != num_places_; ++length) {
      LOCUS_CHECK(length < num_places_, "a chain of moves that ends in itself");
      const size_t from = before[to];
      move(heap(from, to).top().item, to);
      to = from;
    }
    put(item, to);
  }

  std::span<const double> cost_;
  std::vector<int64_t> room_;  // that is left
  size_t num_places_;
  double rounding_ = 1e-300;        // what two sums of costs may differ by and be equal
  std::vector<size_t> place_;       // of each item so far
  std::vector<Heap> movers_;        // [from, to]; below the top, those that have moved on are void
  std::vector<double> least_cost_;  // [from, to]: of the top; infinite where nobody can move
};

}  // namespace

std::vector<int64_t> balanced_assignment(std::span<const double> cost_NK,
                                         std::span<const int64_t> room_K) {
  const auto num_items = static_cast<int64_t>(room_K.empty() ? 0 : cost_NK.size() / room_K.size());
  LOCUS_CHECK(std::cmp_equal(cost_NK.size(), static_cast<size_t>(num_items) * room_K.size()) &&
                  std::accumulate(room_K.begin(), room_K.end(), int64_t{0}) >= num_items,
              "{} costs, {} places", cost_NK.size(), room_K.size());
  return Assignment(cost_NK, room_K).solve();
}

}  // namespace locus::placement
