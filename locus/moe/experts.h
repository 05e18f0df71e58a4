// The experts of one layer: weights of all of them and a kernel that runs rows sorted by expert.
//
// N rows, D hidden size, E experts, F width of one expert.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "locus/ops/feed_forward.h"

namespace locus::moe {

// Runs rows sorted by expert through their networks; counts_E rows of each.
using ExpertKernel = at::Tensor(const at::Tensor& x_ND, const std::vector<int64_t>& counts_E,
                                const ops::FeedForwardWeights& weights, ops::Activation activation);

struct ExpertKernelEntry {
  std::string_view name;
  std::string_view summary;
  ExpertKernel* run;
};

std::span<const ExpertKernelEntry> expert_kernel_entries();
std::vector<std::string> expert_kernel_names();
// ConfigError that lists the known names when there is no such kernel.
const ExpertKernelEntry& find_expert_kernel(std::string_view name);

class Experts : public torch::nn::Module {
 public:
  Experts(int64_t num_experts, int64_t hidden_size, int64_t intermediate_size,
          ops::Activation activation, bool with_bias, std::string_view kernel);

  at::Tensor forward(const at::Tensor& x_ND, const std::vector<int64_t>& counts_E) const;
  // With the weights of some of them, as the next two return them.
  at::Tensor forward(const at::Tensor& x_ND, const std::vector<int64_t>& counts_E,
                     const ops::FeedForwardWeights& weights) const;
  const ops::FeedForwardWeights& weights() const { return weights_; }
  // Of the first sizes[0] experts, the next sizes[1], ...: views, whose gradients are joined once.
  std::vector<ops::FeedForwardWeights> split_weights(const std::vector<int64_t>& sizes) const;
  int64_t num_experts() const { return weights_.up_EUD.size(0); }

 private:
  ops::FeedForwardWeights weights_;
  ops::Activation activation_;
  ExpertKernel* kernel_;
};

}  // namespace locus::moe
