// Sequences near the experts that they want (placement/sequence_placer.h), tied to a training: the
// routers' counts go in, the loader asks for places, the metrics tell what came of it.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "locus/comm/parallel_context.h"
#include "locus/data/loader.h"
#include "locus/model/transformer.h"
#include "locus/placement/sequence_placer.h"
#include "locus/train/metrics.h"

namespace locus::train {

// Routed tokens of one MoE layer, [domain][expert].
using DomainExpert = std::vector<std::vector<int64_t>>;

class Placement {
 public:
  // interval: steps after which counts are taken up; lag: from there until they count.
  Placement(const comm::ParallelContext& parallel, int64_t interval, int64_t lag);

  // Why it would change nothing; empty: it may.
  static std::string why_useless(const comm::ParallelContext& parallel,
                                 const std::vector<std::string>& domain_names);

  // For the loader; outlived by this.
  data::PlaceSequences place_sequences();

  // After `step` finished steps: what the routers counted in the last one, by layer, over all
  // ranks. Says once where it turns out that nothing can be won.
  // The transformer says where the experts are.
  void update(int64_t step, const std::map<int64_t, DomainExpert>& counts,
              const model::Transformer& transformer);

  // What was expected of the steps up to `step` since the last call: a line "placement", empty
  // where no step had counts to go by.
  std::vector<MetricLine> take_lines(int64_t step);

  // Part of a checkpoint.
  placement::SequencePlacer::State state() const { return placer_.state(); }
  void restore(placement::SequencePlacer::State state) { placer_.restore(std::move(state)); }

 private:
  struct Expectation {
    placement::ExpectedShare placed, as_they_come;
  };

  placement::SequencePlacer placer_;
  bool said_idle_ = false;
  std::mutex mutex_;  // the loader's thread adds, the trainer's takes
  std::multimap<int64_t, Expectation> expectations_;  // by step
};

}  // namespace locus::train
