// Experts on the ranks whose tokens want them (placement/expert_placer.h), tied to a training: the
// tokens of each rank are counted, and every so often experts move, where that saves more bytes
// between nodes than it costs.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "locus/model/transformer.h"
#include "locus/placement/expert_placer.h"
#include "locus/train/metrics.h"
#include "locus/train/optimizer.h"

namespace locus::train {

placement::Neighbourhood neighbourhood(const comm::ParallelContext& parallel);

class ExpertMoves {
 public:
  // Every `interval` steps; what a move saves is counted over as many to come. One of
  // `count_interval` steps is counted.
  ExpertMoves(model::Transformer& transformer, Optimizer& optimizer, int64_t interval,
              int64_t count_interval);

  // Why it would change nothing; empty: it may.
  static std::string why_useless(const comm::ParallelContext& parallel);

  // After `step` finished steps, on all ranks: how many tokens of this rank went to each expert in
  // the last one, by layer. Moves experts where it is time and worth it; then a line "migration"
  // for each layer, also of those that stay as they are.
  std::vector<MetricLine> update(int64_t step,
                                 const std::map<int64_t, std::vector<int64_t>>& tokens_E);

  // Part of a checkpoint, by layer.
  struct Layer {
    placement::ExpertOfSlot expert_of_slot;
    std::vector<std::vector<double>> tokens_RE;  // of each rank, since the last decision
  };
  using State = std::map<int64_t, Layer>;
  const State& state() const { return state_; }
  // Counts of another number of ranks are left out.
  void restore(State state);

 private:
  MetricLine decide(int64_t step, int64_t layer, Layer& of);

  model::Transformer& transformer_;
  Optimizer& optimizer_;
  const placement::Neighbourhood neighbourhood_;
  const int64_t interval_, count_interval_;
  State state_;
};

// The experts' places of a checkpoint, before its weights are loaded into `transformer`.
void restore_places(model::Transformer& transformer, const ExpertMoves::State& state);

}  // namespace locus::train
