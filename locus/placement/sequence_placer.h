// Which rank computes which sequence of a global batch (ours; LocMoE's spec, section 3, lever 2):
// the one near the experts that its tokens will want. The batch stays the same set of sequences,
// and so does the model; every rank gets equally many.
//
// What a sequence will want is told from the domains of its documents, and from which experts the
// tokens of these domains went to so far. Sequences change places only among those that the ranks
// compute at one moment (the micro-batches of one number): capacity limits and balance losses,
// which are over these, stay what they were.
//
// M MoE layers, G domains, E experts, N sequences, R ranks.
#pragma once

#include <cstdint>
#include <mutex>
#include <optional>
#include <vector>

#include "locus/placement/neighbourhood.h"

namespace locus::placement {

// Tokens by layer, domain and expert.
using ExpertUse = std::vector<std::vector<std::vector<double>>>;  // [M][G][E]

// Tokens of each domain in each sequence, [N][G]. Tokens of no domain are not counted.
using TokensByDomain = std::vector<std::vector<int64_t>>;

// Of the tokens' ways to experts, the shares that are expected to stay.
struct ExpectedShare {
  double on_node = 0, on_rank = 0;
};

// 0, 1, 2...
std::vector<int64_t> as_they_come(size_t count);

// Used by two threads: the trainer's tells what was seen, the loader's asks for places.
class SequencePlacer {
 public:
  // After every `interval` steps what was counted in them is taken up: at s steps for those from
  // s + lag, so that a loader that works ahead gets the same answers however far it is.
  SequencePlacer(Neighbourhood neighbourhood, int64_t interval, int64_t lag);

  // After `step` finished steps: the experts that the last one's tokens went to, over all ranks,
  // and where those are now, by layer; no layers: in order.
  void update(int64_t step, const ExpertUse& use_MGE, const std::vector<ExpertOfSlot>& places = {});

  // The sequences of one micro-batch number in order of ranks, each rank's in rising order, for the
  // step after `step` finished ones. Before anything counts: as they come.
  std::vector<int64_t> order(int64_t step, const TokensByDomain& tokens_NG) const;

  // What the counts say of an order of these sequences; nothing before anything counts.
  std::optional<ExpectedShare> expected_share(int64_t step, const std::vector<int64_t>& order,
                                              const TokensByDomain& tokens_NG) const;

  // True once it is known that no order is better than another for the steps to come: all domains
  // use the same experts, or every group of ranks lies on one node.
  bool is_idle() const;

  struct Version {
    int64_t from_step = 0;
    ExpertUse use_MGE;  // sums, older ones decayed
    std::vector<ExpertOfSlot> places = {};
  };
  // What a checkpoint has to hold.
  struct State {
    std::vector<Version> versions;  // rising steps; at most one of them is not needed any more
    ExpertUse counted_MGE;          // since the last of them
  };
  State state() const;
  void restore(State state);

 private:
  struct Shares;  // what each domain finds near each rank
  Shares shares(const Version& version) const;
  const Version* version_at(int64_t step) const;

  const Neighbourhood neighbourhood_;
  const int64_t interval_, lag_;
  std::vector<std::vector<int64_t>> ranks_of_place_;  // of one group, on one node: as good a place
  mutable std::mutex mutex_;
  State state_;
};

}  // namespace locus::placement
