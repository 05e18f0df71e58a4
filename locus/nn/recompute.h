// Activation recomputation: forward without a graph, the graph is built again when the gradient
// comes.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <vector>

namespace locus::nn {

// `compute(x, is_replay)` returns one or more tensors as a function of x and of parameters it
// holds. It is called now with is_replay = false and without gradients, and in the backward pass
// with is_replay = true, where it must return equal values: whatever was decided the first time has
// to be kept by the closure.
std::vector<at::Tensor> recompute(
    const at::Tensor& x,
    std::function<std::vector<at::Tensor>(const at::Tensor& x, bool is_replay)> compute);

}  // namespace locus::nn
