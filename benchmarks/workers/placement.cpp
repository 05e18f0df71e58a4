// Sharing the sequences of a global batch out over the ranks of a large cluster
// (placement/sequence_placer.h), as the loader does ahead of every step.
#include <algorithm>
#include <memory>
#include <random>

#include "benchmarks/workers/serve.h"
#include "locus/base/error.h"
#include "locus/placement/sequence_placer.h"

namespace locus::benchmarks {
namespace {

struct PlacementOptions {
  int64_t sequences = 4096;
  int64_t ranks = 256;
  int64_t ranks_per_node = 8;
  int64_t num_experts = 256;
  int64_t num_layers = 24;
  int64_t domains = 32;
  int64_t sequence_length = 4096;

  template <class V>
  void visit_fields(V& v) {
    v("sequences", sequences, "of a global batch");
    v("ranks", ranks, "which share the sequences, in one group");
    v("ranks_per_node", ranks_per_node, "of one node");
    v("num_experts", num_experts, "of a layer");
    v("num_layers", num_layers, "layers with experts");
    v("domains", domains, "of the data");
    v("sequence_length", sequence_length, "tokens");
  }
};

}  // namespace

Worker make_placement(const std::vector<std::string>& settings) {
  const auto options = parse_settings<PlacementOptions>(settings);
  placement::Neighbourhood neighbourhood;
  neighbourhood.ranks_of_group.emplace_back();
  for (int64_t rank = 0; rank < options.ranks; ++rank) {
    neighbourhood.node_of_rank.push_back(rank / options.ranks_per_node);
    neighbourhood.ranks_of_group.front().push_back(rank);
  }
  std::mt19937_64 random(1);  // NOLINT: the same on every run
  std::exponential_distribution<double> popularity;
  constexpr double kLiking = 20;  // of a domain for the experts of one node
  const int64_t num_nodes = options.ranks / options.ranks_per_node;
  placement::ExpertUse use_MGE(static_cast<size_t>(options.num_layers));
  for (auto& use_GE : use_MGE) {
    use_GE.resize(static_cast<size_t>(options.domains));
    for (int64_t domain = 0; domain < options.domains; ++domain) {
      for (int64_t expert = 0; expert < options.num_experts; ++expert) {
        const bool is_liked = expert * num_nodes / options.num_experts == domain % num_nodes;
        use_GE[static_cast<size_t>(domain)].push_back((is_liked ? kLiking : 1) *
                                                      popularity(random));
      }
    }
  }
  const auto placer =
      std::make_shared<placement::SequencePlacer>(neighbourhood, /*interval=*/1, /*lag=*/0);
  placer->update(1, use_MGE);

  // Most sequences are of one domain; some begin in one and end in another.
  std::uniform_int_distribution<size_t> domain(0, static_cast<size_t>(options.domains - 1));
  std::uniform_int_distribution<int64_t> part(1, options.sequence_length);
  placement::TokensByDomain tokens_NG(static_cast<size_t>(options.sequences));
  for (auto& tokens_G : tokens_NG) {
    tokens_G.resize(static_cast<size_t>(options.domains));
    const int64_t first = std::min(options.sequence_length, 2 * part(random));
    tokens_G[domain(random)] += first;
    tokens_G[domain(random)] += options.sequence_length - first;
  }

  const auto expected = [&](const std::vector<int64_t>& order) {
    return placer->expected_share(1, order, tokens_NG)->on_node;
  };
  const double unplaced = expected(placement::as_they_come(static_cast<size_t>(options.sequences)));
  const double placed = expected(placer->order(1, tokens_NG));
  LOCUS_CHECK(placed > 2 * unplaced, "placed {}, unplaced {}: nothing was placed", placed,
              unplaced);
  Worker worker;
  worker.facts = {{"unplaced_on_node", unplaced}, {"placed_on_node", placed}};
  worker.run = [placer, tokens_NG] {
    const Stopwatch watch;
    const std::vector<int64_t> order = placer->order(1, tokens_NG);
    return Report{{"seconds", watch.seconds()}, {"sequences", static_cast<double>(order.size())}};
  };
  return worker;
}

}  // namespace locus::benchmarks
