// Settings of a comparison, [compare]: a file of their own.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace locus::compare {

struct CompareConfig {
  std::string config;
  std::vector<std::string> settings;
  std::vector<std::string> variants;
  std::vector<int64_t> seeds = {1, 2, 3};
  std::string equal = "steps";
  std::string output_dir = "runs/compare";
  int64_t jobs = 1;

  template <class V>
  void visit_fields(V& v) {
    v("config", config, "settings file of all variants");
    v("settings", settings, "settings of all variants on top of it, [\"train.max_steps=300\"]");
    v("variants", variants,
      "what is compared, as [\"switch: moe.router.type=switch moe.router.top_k=1\"]; the others "
      "are "
      "held against the first one");
    v("seeds", seeds, "train.seed of each variant's trainings");
    v("equal", equal,
      "what every training has as much of as the first variant's: steps | flops | wall_time | "
      "active_parameters");
    v("output_dir", output_dir, "folder of the trainings and of the results");
    v("jobs", jobs, "trainings at a time, which share the cores");
  }
};

}  // namespace locus::compare
