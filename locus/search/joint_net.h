// A smaller model of a step of the joint stage: with the whole one's weights, in a shape of its
// own; or gated, in the whole one's heads and channels, so that what is off has a slope, too.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "locus/search/arch_space.h"

namespace locus::search {

class JointNet {
 public:
  // Weights are those of `whole` from the first copy_weights() on.
  JointNet(const model::Transformer& whole, const ArchSpace& space, size_t budget, const Mask& mask,
           bool is_gated);

  // The whole model's weights of now; of what is off, 0.
  void copy_weights(const model::Transformer& whole);
  // Its gradients are added to those of the whole model, and reset; there are none of what is off.
  void add_gradients(const model::Transformer& whole);

  model::Transformer& transformer() const { return *transformer_; }
  size_t budget() const { return budget_; }
  const Mask& mask() const { return mask_; }
  // What it computes, and costs: gated ones leave out experts and slots alone.
  const Mask& computed() const { return computed_; }
  const ModelCut& cut() const { return cut_; }  // of `computed`

  double loss = 0;  // cross entropy of the step's micro-batches so far

 private:
  // Weights that a mask sets to 0: columns, or all of a parameter.
  struct Off {
    at::Tensor parameter;
    int64_t begin, end;  // end -1: all
    void zero(const at::Tensor& tensor) const;
  };
  void turn_off(const std::string& name, int64_t begin = 0, int64_t end = -1);
  void turn_off(const ArchSpace& space, const Unit& unit);

  size_t budget_;  // its place among those of the training
  Mask mask_, computed_;
  ModelCut cut_;
  std::shared_ptr<model::Transformer> transformer_;
  CutMap map_;
  std::vector<Off> off_;
};

}  // namespace locus::search
