#include "locus/moe/exchange_choice.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "locus/base/format.h"
#include "locus/moe/exchange.h"

namespace locus::moe {
namespace {

// Where nobody has measured: a 10 Gbit/s network and shared memory, a rank's share of them.
constexpr double kInterLatency = 50e-6, kInterBytesPerS = 0.5e9;
constexpr double kIntraLatency = 10e-6, kIntraBytesPerS = 3e9;
constexpr int64_t kMostChunks = 8;
// Parts cost what the model does not know: threads that take turns, products with fewer rows. They
// have to save this share of a layer's experts and rows.
constexpr double kLeastSaving = 0.05;
// What it costs to prepare a weight for a product with few rows: as much as multiplying it with
// this many (ops/products.h packs it).
constexpr double kRowsOfPacking = 40;

// Messages to several ranks set off together: each one more adds a part of a latency, not all of
// it.
constexpr double kLatencyOfNext = 0.1;

struct LinkModel {
  double latency_s = 0, bytes_per_s = 0;
  double latencies_s(double messages) const {
    return messages > 0 ? latency_s * (1 + kLatencyOfNext * (messages - 1)) : 0;
  }
  double seconds(double messages, double bytes) const {
    return latencies_s(messages) + bytes / bytes_per_s;
  }
};

LinkModel model_of(const cluster::Link& link, double latency_s, double bytes_per_s) {
  if (!link.is_measured()) return {latency_s, bytes_per_s};
  return {link.latency_s, link.bytes_per_s};
}

// Of k different experts out of E, that at least one is among the E / parts of a place.
double chance_of_place(double num_experts, double top_k, double parts) {
  double none = 1;
  const double elsewhere = num_experts - num_experts / parts;
  for (double i = 0; i < top_k; ++i) none *= std::max(0.0, elsewhere - i) / (num_experts - i);
  return 1 - none;
}

class TimeModel {
 public:
  TimeModel(const comm::ParallelContext& parallel, const ExchangeLoad& load)
      : load_(load),
        inter_(model_of(parallel.topology.inter_node, kInterLatency, kInterBytesPerS)),
        intra_(model_of(parallel.topology.intra_node, kIntraLatency, kIntraBytesPerS)),
        ranks_(static_cast<double>(parallel.ep_size)),
        nodes_(parallel.ep_nodes ? static_cast<double>(parallel.ep_nodes->num_nodes) : 1),
        per_node_(ranks_ / nodes_),
        away_(load.near_share > 0 ? 1 - load.near_share : 1 - 1 / nodes_) {}

  // One way of a layer's rows.
  double way_s(std::string_view type) const {
    const double rows = load_.num_tokens * load_.top_k * load_.row_bytes;
    const double leaving = rows * away_;
    if (type == "hierarchical") {
      return intra_.seconds(per_node_ - 1, rows * (1 - 1 / per_node_)) +
             inter_.seconds(nodes_ - 1, leaving);
    }
    if (type == "dedup") {
      const double tokens = load_.num_tokens * load_.row_bytes;
      const double even = 1 - 1 / nodes_;
      const double crossing =
          even > 0 ? tokens * (nodes_ - 1) * chance_of(nodes_) * away_ / even : 0;
      const double copies = tokens * ranks_ * chance_of(ranks_) * (1 - 1 / per_node_);
      // Weights and their gradients travel beside; who needs what is told before.
      return inter_.seconds(nodes_ - 1, crossing) + intra_.seconds(per_node_ - 1, copies) +
             inter_.seconds(ranks_ - per_node_, 0);
    }
    return std::max(inter_.seconds(ranks_ - per_node_, leaving),
                    intra_.seconds(per_node_ - 1, rows * (1 - away_) * (1 - 1 / per_node_)));
  }

  // Waited for, of both ways of a layer in so many parts.
  double exposed_s(std::string_view type, int64_t chunks) const {
    const double both_s = 2 * way_s(type);
    const auto parts = static_cast<double>(chunks);
    // The first part comes and the last one goes alone; each further part costs its messages.
    const double more_s = (parts - 1) * 2 * message_s(type);
    return plan_s(type) + both_s / parts + std::max(0.0, (both_s - compute_s()) * (1 - 1 / parts)) +
           more_s;
  }

  // What has to be saved for each doubling of the parts.
  double least_saving_s(std::string_view type) const {
    return kLeastSaving * (compute_s() + 2 * way_s(type));
  }

  // More to compute where each of so many parts has rows of every expert of the rank.
  double packing_s(double chunks) const {
    if (load_.flops_per_s == 0 || load_.num_tokens == 0) return 0;
    const double expert_weights = load_.expert_flops / (2 * load_.top_k * load_.num_tokens);
    const double rank_weights = expert_weights * static_cast<double>(load_.num_experts) / ranks_;
    return (chunks - 1) * rank_weights * 2 * kRowsOfPacking / load_.flops_per_s;
  }

 private:
  double compute_s() const {
    return load_.flops_per_s > 0 ? load_.expert_flops / load_.flops_per_s : 0;
  }
  double chance_of(double parts) const {
    return chance_of_place(static_cast<double>(load_.num_experts), load_.top_k, parts);
  }
  // What dedup tells the other ranks before any row sets off.
  double plan_s(std::string_view type) const {
    return type == "dedup" ? inter_.seconds(ranks_ - per_node_ + nodes_ - 1, 0) : 0;
  }
  double message_s(std::string_view type) const {
    const double inter = nodes_ > 1 ? (type == "flat" ? ranks_ - per_node_ : nodes_ - 1) : 0;
    const double intra_s = intra_.latencies_s(per_node_ - 1);
    // Flat sends to all at once; the others have two rounds.
    return type == "flat" ? std::max(inter_.latencies_s(inter), intra_s)
                          : inter_.latencies_s(inter) + intra_s;
  }

  const ExchangeLoad& load_;
  LinkModel inter_, intra_;
  double ranks_, nodes_, per_node_;
  double away_;  // share of a rank's rows that leave its node
};

}  // namespace

ExchangeChoice choose_exchange(const comm::ParallelContext& parallel, const ExchangeLoad& load) {
  const comm::ExchangeConfig& wanted = parallel.exchange;
  const TimeModel model(parallel, load);
  ExchangeChoice best;
  double best_s = std::numeric_limits<double>::infinity();
  std::string seconds;
  for (const ExchangeEntry& entry : exchange_entries()) {
    if (wanted.type != "auto" && wanted.type != entry.name) continue;
    if (wanted.type == "auto" && !is_possible(entry, parallel.ep_nodes.get())) continue;
    double least_s = std::numeric_limits<double>::infinity();
    const int64_t first = wanted.chunks == 0 ? 1 : wanted.chunks;
    const int64_t last = wanted.chunks == 0 ? kMostChunks : wanted.chunks;
    for (int64_t chunks = first; chunks <= last; chunks *= 2) {
      const bool by_experts =
          entry.parts_share_tokens && chunks <= load.num_experts / parallel.ep_size;
      const auto parts = static_cast<double>(chunks);
      const double cost_s = model.exposed_s(entry.name, chunks) +
                            (by_experts ? 0 : model.packing_s(parts)) +
                            std::log2(parts) * model.least_saving_s(entry.name);
      least_s = std::min(least_s, cost_s);
      if (cost_s >= best_s) continue;
      best_s = cost_s;
      best = {std::string(entry.name), chunks, ""};
    }
    seconds += format("{}{} {:.2f} ms", seconds.empty() ? "" : ", ", entry.name, least_s * 1e3);
  }
  const bool measured =
      parallel.topology.inter_node.is_measured() || parallel.topology.intra_node.is_measured();
  best.reason =
      format("{} in {} {}: costs a layer's forward pass, by {} links: {}", best.type, best.chunks,
             best.chunks == 1 ? "part" : "parts", measured ? "known" : "assumed", seconds);
  return best;
}

}  // namespace locus::moe
