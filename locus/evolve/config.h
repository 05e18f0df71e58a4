// Settings of a training whose experts come in phases, [evolve] (EvoMoE).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace locus::evolve {

struct EvolveConfig {
  std::vector<int64_t> num_experts;
  std::vector<int64_t> spawn_steps;
  double spawn_slope = 0.0;
  int64_t slope_window = 100;
  std::string diversify = "mask";
  double ratio = 0.1;
  double sigma = 0.1;
  bool keep_first = true;
  std::string optimizer_state = "copy";

  template <class V>
  void visit_fields(V& v) {
    v("num_experts", num_experts,
      "experts of the phases before the last, which has moe.num_experts: [1] begins with one, a "
      "dense model; [1, 4] grows twice; empty: all experts from the start");
    v("spawn_steps", spawn_steps,
      "step at which each of those phases ends, its experts becoming those of the next; [0] with "
      "checkpoint.initial_load_path: from the weights of a trained model");
    v("spawn_slope", spawn_slope,
      "end a phase earlier, once the loss falls by less than this in a step; 0: never");
    v("slope_window", slope_window, "steps whose mean loss is compared with that of those before");
    v("diversify", diversify,
      "what tells an expert from the one it is spawned from: copy | mask (some weights start at 0) "
      "| mask_rescale (the others grow to make up for it) | noise | reinit (some weights are new)");
    v("ratio", ratio, "share of the weights that mask, mask_rescale and reinit touch");
    v("sigma", sigma, "standard deviation of the noise, in that of the matrix");
    v("keep_first", keep_first, "the first expert that is spawned from another one is its copy");
    v("optimizer_state", optimizer_state,
      "of the new experts: copy | masked_copy (0 where a weight was touched) | reset");
  }
};

}  // namespace locus::evolve
