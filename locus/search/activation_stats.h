// What heads and channels put out, just before their output projections: how much, and how alike.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <vector>

#include "locus/comm/process_group.h"
#include "locus/ops/input_probe.h"
#include "locus/search/arch_space.h"

namespace locus::search {

// Of one group of heads or blocks, over rows (tokens, padding too; of experts, those that they
// got). C units; a unit's value in a row is the mean over its channels.
struct GroupActivations {
  const UnitGroup* group = nullptr;
  std::vector<double> magnitude;  // [C], the mean of |x| over rows and channels
  std::vector<double> mean;       // [C], of x
  at::Tensor correlation_CC;      // Pearson's, of the units' values; 0 with one that does not vary
};

class ActivationStats {
 public:
  // Outlives what watch() gives, as `space` does.
  explicit ActivationStats(const ArchSpace& space);

  // Looks at what the model computes on this thread, as long as the probe lives. It has all heads
  // and channels.
  std::unique_ptr<ops::InputProbe> watch(const model::Transformer& transformer);

  // Of what all ranks of `world` have seen since the last time; groups that nobody has seen a row
  // of are missing. `world` null: this rank alone.
  std::vector<GroupActivations> take(comm::ProcessGroup* world);

 private:
  struct Sums {
    const UnitGroup* group;
    at::Tensor unit_of_channel_K, channels_C;
    at::Tensor all;  // one after another: rows, |x| [C], x [C], products of values [C, C]
  };
  static void add(Sums& sums, const at::Tensor& x);

  const ArchSpace& space_;
  std::vector<Sums> sums_;
};

}  // namespace locus::search
