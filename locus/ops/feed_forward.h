// The grouped feed-forward network: every group (expert) of rows goes through its own two matrices.
// One autograd function that saves its input and the pre-activations; the activation is computed
// again in the backward pass. A dense feed-forward network is the same with one group.
#pragma once

#include <ATen/core/Tensor.h>

#include <span>
#include <string_view>
#include <vector>

namespace locus::ops {

enum class Activation {
  kSwiglu,    // silu(gate) * up: the up projection has 2F rows, gate first
  kGelu,      // exact
  kGeluTanh,  // GPT-2's approximation
};

// "swiglu" | "gelu" | "gelu_new"; ConfigError otherwise.
Activation parse_activation(std::string_view name);

// Rows of the up projection for a network of width F: 2F for gated activations.
int64_t up_rows(Activation activation, int64_t intermediate_size);

// E groups, D hidden size, F width, U = up_rows(F). Float32 (or the type of x); x's type computes.
struct FeedForwardWeights {
  at::Tensor up_EUD;
  at::Tensor up_bias_EU;  // undefined: no bias
  at::Tensor down_EDF;
  at::Tensor down_bias_ED;  // undefined: no bias
};

at::Tensor apply_activation(const at::Tensor& up_NU, Activation activation);

// x_ND: rows sorted by group, counts_E of each. [N, D]. Differentiable in x and the weights.
at::Tensor grouped_feed_forward(const at::Tensor& x_ND, const std::vector<int64_t>& counts_E,
                                const FeedForwardWeights& weights, Activation activation);

}  // namespace locus::ops
