#include "locus/train/placement.h"

#include <utility>

#include "locus/base/log.h"
#include "locus/train/expert_moves.h"

namespace locus::train {
Placement::Placement(const comm::ParallelContext& parallel, int64_t interval, int64_t lag)
    : placer_(neighbourhood(parallel), interval, lag) {}

std::string Placement::why_useless(const comm::ParallelContext& parallel,
                                   const std::vector<std::string>& domain_names) {
  if (domain_names.size() < 2) return "the training data do not tell two domains apart";
  return ExpertMoves::why_useless(parallel);
}

data::PlaceSequences Placement::place_sequences() {
  return [this](int64_t step, const placement::TokensByDomain& tokens_NG) {
    std::vector<int64_t> order = placer_.order(step, tokens_NG);
    const auto placed = placer_.expected_share(step, order, tokens_NG);
    const auto unplaced =
        placer_.expected_share(step, placement::as_they_come(order.size()), tokens_NG);
    if (placed && unplaced) {
      const std::lock_guard lock(mutex_);
      expectations_.emplace(step, Expectation{*placed, *unplaced});
    }
    return order;
  };
}

void Placement::update(int64_t step, const std::map<int64_t, DomainExpert>& counts,
                       const model::Transformer& transformer) {
  placement::ExpertUse use_MGE;
  for (const auto& [layer, count_GE] : counts) {
    auto& use_GE = use_MGE.emplace_back();
    for (const auto& row : count_GE) use_GE.emplace_back(row.begin(), row.end());
  }
  std::vector<placement::ExpertOfSlot> places;
  for (const auto& [layer, moe] : transformer.moe_layers()) places.push_back(moe->expert_of_slot());
  placer_.update(step, use_MGE, places);
  if (said_idle_ || !placer_.is_idle()) return;
  said_idle_ = true;
  log::info(
      "parallel.place_sequences: after step {}, all domains use the experts of all nodes alike; "
      "sequences stay where they come while that is so",
      step);
}

std::vector<MetricLine> Placement::take_lines(int64_t step) {
  const std::lock_guard lock(mutex_);
  const auto end = expectations_.lower_bound(step);  // that of step s is of the s + 1st
  double count = 0;
  Expectation sum;
  for (auto it = expectations_.begin(); it != end; ++it) {
    ++count;
    sum.placed.on_node += it->second.placed.on_node;
    sum.placed.on_rank += it->second.placed.on_rank;
    sum.as_they_come.on_node += it->second.as_they_come.on_node;
    sum.as_they_come.on_rank += it->second.as_they_come.on_rank;
  }
  expectations_.erase(expectations_.begin(), end);
  if (count == 0) return {};
  MetricLine line("placement", step);
  line.set("expected_on_node", sum.placed.on_node / count)
      .set("expected_on_rank", sum.placed.on_rank / count)
      .set("unplaced_on_node", sum.as_they_come.on_node / count)
      .set("unplaced_on_rank", sum.as_they_come.on_rank / count);
  return {line};
}

}  // namespace locus::train
