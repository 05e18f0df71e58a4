#include "locus/placement/expert_placer.h"

#include "locus/base/error.h"
#include "locus/placement/balanced_assignment.h"

namespace locus::placement {
namespace {

// Beside a token that crosses between nodes, one that crosses between ranks counts for this much.
constexpr double kBetweenRanks = 1e-3;

// What expert e costs at place p of the groups: its tokens that come from elsewhere.
std::vector<double> costs(const Neighbourhood& neighbourhood,
                          const std::vector<std::vector<double>>& tokens_RE, size_t num_places) {
  const size_t num_experts = tokens_RE.front().size();
  std::vector<double> cost_EP(num_experts * num_places);
  for (const auto& group : neighbourhood.ranks_of_group) {
    for (size_t p = 0; p < num_places; ++p) {
      for (const int64_t rank : group) {
        if (rank == group[p]) continue;
        const double way = neighbourhood.share_node(rank, group[p]) ? kBetweenRanks : 1.0;
        const auto& tokens_E = tokens_RE[static_cast<size_t>(rank)];
        for (size_t e = 0; e < num_experts; ++e) cost_EP[e * num_places + p] += way * tokens_E[e];
      }
    }
  }
  return cost_EP;
}

// What each place but the present one costs more: the expert has to travel there, in every group.
// The least bit, where it costs nothing: so that equal places are no reason to move.
void add_moves(const Neighbourhood& neighbourhood, const std::vector<int64_t>& before_E,
               double tokens_of_move, std::vector<double>& cost_EP) {
  constexpr double kLeast = 1e-6;
  const size_t num_places = cost_EP.size() / before_E.size();
  for (size_t e = 0; e < before_E.size(); ++e) {
    const auto before = static_cast<size_t>(before_E[e]);
    for (size_t p = 0; p < num_places; ++p) {
      if (p == before) continue;
      cost_EP[e * num_places + p] += kLeast;
      for (const auto& group : neighbourhood.ranks_of_group) {
        const bool near = neighbourhood.share_node(group[before], group[p]);
        cost_EP[e * num_places + p] += tokens_of_move * (near ? kBetweenRanks : 1.0);
      }
    }
  }
}

double crossing(const Neighbourhood& neighbourhood,
                const std::vector<std::vector<double>>& tokens_RE,
                const std::vector<int64_t>& place_E) {
  double sum = 0;
  for (const auto& group : neighbourhood.ranks_of_group) {
    for (const int64_t rank : group) {
      for (size_t e = 0; e < place_E.size(); ++e) {
        const int64_t holder = group[static_cast<size_t>(place_E[e])];
        if (!neighbourhood.share_node(rank, holder)) sum += tokens_RE[static_cast<size_t>(rank)][e];
      }
    }
  }
  return sum;
}

}  // namespace

ExpertPlan plan_experts(const Neighbourhood& neighbourhood,
                        const std::vector<std::vector<double>>& tokens_RE, const ExpertOfSlot& now,
                        double tokens_of_move) {
  const size_t num_experts = now.size();
  const size_t num_places = neighbourhood.ranks_of_group.front().size();
  LOCUS_CHECK(tokens_RE.size() == neighbourhood.node_of_rank.size() &&
                  tokens_RE.front().size() == num_experts && num_experts % num_places == 0,
              "{} experts on {} places, tokens of {} ranks", num_experts, num_places,
              tokens_RE.size());
  const size_t per_place = num_experts / num_places;
  std::vector<int64_t> before_E(num_experts);
  for (size_t slot = 0; slot < num_experts; ++slot) {
    before_E[static_cast<size_t>(now[slot])] = static_cast<int64_t>(slot / per_place);
  }
  const std::vector<int64_t> room_P(num_places, static_cast<int64_t>(per_place));
  std::vector<double> cost_EP = costs(neighbourhood, tokens_RE, num_places);
  add_moves(neighbourhood, before_E, tokens_of_move, cost_EP);
  const std::vector<int64_t> after_E = balanced_assignment(cost_EP, room_P);

  ExpertPlan plan{.expert_of_slot = ExpertOfSlot(num_experts, -1),
                  .crossed = crossing(neighbourhood, tokens_RE, before_E),
                  .crosses = crossing(neighbourhood, tokens_RE, after_E)};
  for (size_t slot = 0; slot < num_experts; ++slot) {
    const int64_t expert = now[slot];
    const auto e = static_cast<size_t>(expert);
    if (before_E[e] == after_E[e]) {
      plan.expert_of_slot[slot] = expert;
      continue;
    }
    ++plan.moved;
    for (const auto& group : neighbourhood.ranks_of_group) {
      const bool near = neighbourhood.share_node(group[static_cast<size_t>(before_E[e])],
                                                 group[static_cast<size_t>(after_E[e])]);
      plan.moved_between_nodes += near ? 0 : 1;
    }
  }
  for (size_t e = 0; e < num_experts; ++e) {
    if (before_E[e] == after_E[e]) continue;
    auto slot = plan.expert_of_slot.begin() + after_E[e] * static_cast<int64_t>(per_place);
    while (*slot >= 0) ++slot;
    *slot = static_cast<int64_t>(e);
  }
  return plan;
}

}  // namespace locus::placement
