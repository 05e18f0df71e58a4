// Activation recomputation: forward without a graph, the graph is built again when the gradient
// comes.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

namespace locus::nn {

// `compute(inputs, is_replay)` returns one or more tensors as a function of `inputs`, one or two,
// and of parameters it holds. It is called now with is_replay = false and without gradients, and in
// the backward pass with is_replay = true, where it must return equal values: whatever was decided
// the first time has to be kept by the closure.
using Recomputed =
    std::function<std::vector<at::Tensor>(const std::vector<at::Tensor>& inputs, bool is_replay)>;
std::vector<at::Tensor> recompute(const std::vector<at::Tensor>& inputs, Recomputed compute);

}  // namespace locus::nn
