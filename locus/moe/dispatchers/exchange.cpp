// Experts on several ranks: rows travel to the rank that holds their expert and back, as
// moe/exchange.h plans it.
//
// All parts set off at once. Each is computed when it has come, and its outputs set off while the
// next part is computed; the gradients take the same ways backwards, in the opposite order.
//
// T tokens, D hidden size, H rows that leave home, M rows that the experts here compute.
#include <ATen/ATen.h>

#include <chrono>
#include <utility>

#include "locus/base/error.h"
#include "locus/base/timeline.h"
#include "locus/comm/activity.h"
#include "locus/comm/flight.h"
#include "locus/moe/dispatcher.h"
#include "locus/moe/exchange.h"
#include "locus/ops/rows.h"

namespace locus::moe {
namespace {

using comm::Flight;
using comm::Way;

// What goes with a layer's rows on all of their ways.
struct Travel {
  std::optional<at::ScalarType> wire;
  std::shared_ptr<ExchangeStats> stats;  // null: not counted
  bool is_recorded = false;              // into the timeline of this step
  std::shared_ptr<comm::Activity> activity;
  int64_t layer = -1;

  // Adds the times of a way and of its gradient's way to what the statistics say.
  comm::FlightLog log(Way way) const {
    comm::FlightLog out{{}, activity, way == Way::kSpread ? "dispatch" : "combine", layer};
    if (stats == nullptr && !is_recorded) return out;
    out.observe = [stats = stats, way](const comm::FlightTimes& times) {
      const Direction direction =
          way == Way::kSpread
              ? (times.is_gradient ? Direction::kDispatchGradient : Direction::kDispatch)
              : (times.is_gradient ? Direction::kCombineGradient : Direction::kCombine);
      if (Timeline* timeline = Timeline::current()) {
        const std::string name(direction_name(direction));
        const double end_s = times.begin_s + times.flight_s;
        timeline->add(name, "rows under way", times.begin_s, end_s);
        timeline->add(name, "wait", end_s - times.waited_s, end_s);
      }
      if (stats == nullptr) return;
      DirectionStats& one = stats->of[static_cast<int>(direction)];
      one.flight_s += times.flight_s;
      one.exposed_s += times.waited_s;
    };
    return out;
  }

  // Of the few bytes beside the rows: what is waited for them counts, too.
  comm::FlightLog weight_log() const {
    comm::FlightLog out{{}, activity, "dispatch", layer};
    if (stats == nullptr) return out;
    out.observe = [stats = stats](const comm::FlightTimes& times) {
      const auto direction =
          times.is_gradient ? Direction::kDispatchGradient : Direction::kDispatch;
      stats->of[static_cast<int>(direction)].exposed_s += times.waited_s;
    };
    return out;
  }
};

at::Tensor on_device(const at::Tensor& index, const at::Tensor& like) {
  return index.to(like.device());
}

class RowsUnderWay : public Dispatched {
 public:
  RowsUnderWay(const at::Tensor& x_TD, const Routing& routing,
               std::shared_ptr<const ExchangePlan> plan, Travel travel)
      : plan_(std::move(plan)),
        travel_(std::move(travel)),
        weight_N_(routing.weight_N),
        num_tokens_(x_TD.size(0)) {
    for (const ExchangePart& part : plan_->parts) {
      there_.emplace_back(part.route, Way::kSpread,
                          ops::gather_rows(x_TD, on_device(part.token_H, x_TD)), travel_.wire,
                          travel_.log(Way::kSpread));
      if (part.weight_route == nullptr) continue;
      const at::Tensor weight_A =
          weight_N_.index_select(0, on_device(part.assignment_A, weight_N_));
      weights_.emplace_back(part.weight_route, Way::kSpread, weight_A.unsqueeze(1), std::nullopt,
                            travel_.weight_log());
    }
  }

  at::Tensor combine(const Experts& experts) override {
    const comm::Note note(travel_.activity, "combine", travel_.layer);
    const std::vector<ops::FeedForwardWeights> weights = expert_weights(experts);
    std::vector<Flight> back;
    for (size_t p = 0; p < plan_->parts.size(); ++p) {
      const ExchangePart& part = plan_->parts[p];
      const at::Tensor arrived_D = there_[p].land();
      const at::Tensor x_MD = ops::gather_rows(arrived_D, on_device(part.place_M, arrived_D));
      const at::Tensor y_MD = compute(experts, x_MD, part.counts_E, weights[p]);
      back.emplace_back(part.route, Way::kCollect, returning(p, y_MD), travel_.wire,
                        travel_.log(Way::kCollect));
    }
    std::vector<at::Tensor> rows, tokens, row_weights;
    for (size_t p = 0; p < plan_->parts.size(); ++p) {
      const ExchangePart& part = plan_->parts[p];
      rows.push_back(back[p].land());
      tokens.push_back(on_device(part.token_H, rows.back()));
      row_weights.push_back(
          part.assignment_H.defined()
              ? weight_N_.index_select(0, on_device(part.assignment_H, weight_N_))
              : at::ones({rows.back().size(0)}, weight_N_.options().requires_grad(false)));
    }
    const auto joined = [](const std::vector<at::Tensor>& parts) {
      return parts.size() == 1 ? parts.front() : at::cat(parts);
    };
    return ops::combine_rows(joined(rows), joined(tokens), joined(row_weights), num_tokens_);
  }

 private:
  static at::Tensor compute(const Experts& experts, const at::Tensor& x_MD,
                            const std::vector<int64_t>& counts_E,
                            const ops::FeedForwardWeights& weights) {
    const Span span("experts", "compute");
    return experts.forward(x_MD, counts_E, weights);
  }

  // Of each part.
  std::vector<ops::FeedForwardWeights> expert_weights(const Experts& experts) const {
    if (!plan_->split_by_experts || plan_->parts.size() == 1) {
      return {plan_->parts.size(), experts.weights()};
    }
    std::vector<int64_t> sizes;
    for (const ExchangePart& part : plan_->parts) {
      sizes.push_back(static_cast<int64_t>(part.counts_E.size()));
    }
    return experts.split_weights(sizes);
  }

  // What goes home: the experts' rows, or weighted sums over those of a token.
  at::Tensor returning(size_t p, const at::Tensor& y_MD) {
    const ExchangePart& part = plan_->parts[p];
    if (part.back_M.defined()) return ops::gather_rows(y_MD, on_device(part.back_M, y_MD));
    const at::Tensor weight_M =
        weights_[p].land().squeeze(1).index_select(0, on_device(part.weight_place_M, y_MD));
    return ops::combine_rows(y_MD, on_device(part.place_M, y_MD), weight_M, part.num_arriving);
  }

  std::shared_ptr<const ExchangePlan> plan_;
  Travel travel_;
  at::Tensor weight_N_;
  int64_t num_tokens_;
  std::vector<Flight> there_, weights_;
};

std::optional<at::ScalarType> wire_type(const std::string& name) {
  if (name == "auto") return std::nullopt;
  if (name == "float32") return at::kFloat;
  if (name == "bfloat16") return at::kBFloat16;
  throw ConfigError(
      "parallel.exchange.wire_dtype = \"{}\" is not a type of rows; auto, float32 or bfloat16",
      name);
}

class ExchangeDispatcher : public Dispatcher {
 public:
  ExchangeDispatcher(int64_t num_experts, const comm::ParallelContext& parallel, int64_t layer)
      : map_{num_experts, parallel.ep, parallel.ep_nodes, parallel.ep_node_of},
        entry_(find_exchange(parallel.exchange.type == "auto" ? "flat" : parallel.exchange.type)),
        num_parts_(std::max<int64_t>(parallel.exchange.chunks, 1)),
        wire_(wire_type(parallel.exchange.wire_dtype)),
        activity_(parallel.activity),
        layer_(layer) {
    LOCUS_CHECK(num_experts % map_.num_ranks() == 0, "{} experts on {} ranks", num_experts,
                map_.num_ranks());
    if (!is_possible(entry_, map_.nodes.get())) {
      throw ConfigError(
          "parallel.exchange.type = \"{}\" needs expert-parallel groups that lie on several nodes, "
          "with equally many ranks on each{}; use \"flat\" or \"auto\"",
          entry_.name,
          entry_.most_ranks_per_node == 0 ? ""
                                          : format(", at most {}", entry_.most_ranks_per_node));
    }
  }

  std::unique_ptr<Dispatched> dispatch(const at::Tensor& x_TD, Routing& routing) override {
    const comm::Note note(activity_, "dispatch", layer_);
    std::shared_ptr<const ExchangePlan>& plan = routing.assignment.plan;
    const auto begin = std::chrono::steady_clock::now();
    if (plan == nullptr) {
      const Span span("counts", "wait");
      plan = plan_exchange(entry_, map_, by_slots(routing.assignment), x_TD.size(0), num_parts_);
    }
    if (stats_ != nullptr) {
      stats_->plan_s +=
          std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
      count_bytes(plan->rows, x_TD);
    }
    return std::make_unique<RowsUnderWay>(
        x_TD, routing, plan,
        Travel{wire_, stats_, Timeline::current() != nullptr, activity_, layer_});
  }

  void place_experts(const std::vector<int64_t>& slot_E) override {
    slot_E_ = at::tensor(slot_E, at::kLong);
  }

  void count_in(std::shared_ptr<ExchangeStats> stats) override {
    stats_ = std::move(stats);
    if (stats_ != nullptr) stats_->sent_R.resize(static_cast<size_t>(map_.num_ranks()));
  }

 private:
  // The exchange knows experts by their places.
  Assignment by_slots(const Assignment& assignment) const {
    if (!slot_E_.defined()) return assignment;
    Assignment moved = assignment;
    moved.expert_N = slot_E_.to(assignment.expert_N.device()).index_select(0, assignment.expert_N);
    return moved;
  }

  // Gradients take the ways of their rows backwards.
  void count_bytes(const ExchangeRows& rows, const at::Tensor& x_TD) {
    const auto row_bytes = static_cast<double>(
        x_TD.size(1) * static_cast<int64_t>(c10::elementSize(wire_.value_or(x_TD.scalar_type()))));
    stats_->inter_messages += static_cast<double>(rows.inter_messages);
    const bool has_backward = torch::GradMode::is_enabled() && x_TD.requires_grad();
    const auto add = [&](Direction direction, const std::vector<int64_t>& rows_R) {
      DirectionStats& one = stats_->of[static_cast<int>(direction)];
      stats_->least_inter_bytes += static_cast<double>(rows.least_inter) * row_bytes;
      stats_->flat_inter_bytes += static_cast<double>(rows.flat_inter) * row_bytes;
      stats_->assigned_bytes += static_cast<double>(rows.assignments) * row_bytes;
      const int64_t own_node = map_.node_of[static_cast<size_t>(map_.group->rank())];
      for (size_t r = 0; r < rows_R.size(); ++r) {
        const double bytes = static_cast<double>(rows_R[r]) * row_bytes;
        (map_.node_of[r] == own_node ? one.intra_bytes : one.inter_bytes) += bytes;
        stats_->sent_R[r] += bytes;
      }
    };
    add(Direction::kDispatch, rows.spread_R);
    add(Direction::kCombine, rows.collect_R);
    if (!has_backward) return;
    add(Direction::kCombineGradient, rows.spread_R);
    add(Direction::kDispatchGradient, rows.collect_R);
  }

  ExpertMap map_;
  const ExchangeEntry& entry_;
  int64_t num_parts_;
  std::optional<at::ScalarType> wire_;
  std::shared_ptr<comm::Activity> activity_;
  int64_t layer_;
  at::Tensor slot_E_;  // undefined: every expert is at its own number
  std::shared_ptr<ExchangeStats> stats_;
};

}  // namespace

std::unique_ptr<Dispatcher> make_exchange_dispatcher(int64_t num_experts,
                                                     const comm::ParallelContext& parallel,
                                                     int64_t layer) {
  return std::make_unique<ExchangeDispatcher>(num_experts, parallel, layer);
}

}  // namespace locus::moe
