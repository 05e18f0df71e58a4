// Shows the inputs of chosen weights while a model runs: for statistics that no layer has to know
// of.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <unordered_map>
#include <vector>

namespace locus::ops {

// As long as it lives, `see` is called for each x [..., K] that this thread multiplies with
// weights[number] [..., M, K] or with a view of it, by ops::linear(), grouped_feed_forward() (the
// channels before the down projection) or the experts' kernel `loop`: without gradients, in the
// type that computes. What is computed a second time for a backward pass is shown again. One at a
// time on a thread, which it is known to as long as it lives.
class InputProbe {
 public:
  using See = std::function<void(size_t number, const at::Tensor& x)>;
  InputProbe(const std::vector<at::Tensor>& weights, See see);
  ~InputProbe();
  InputProbe(const InputProbe&) = delete;
  InputProbe& operator=(const InputProbe&) = delete;

  // For those who multiply: whether anyone looks at this weight, and what they see.
  static bool looks_at(const at::Tensor& weight);
  static void show(const at::Tensor& weight, const at::Tensor& x);

 private:
  std::unordered_map<const void*, size_t> numbers_;  // by their storage
  See see_;
};

}  // namespace locus::ops
