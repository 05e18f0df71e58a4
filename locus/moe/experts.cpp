#include "locus/moe/experts.h"

#include <ATen/ATen.h>

#include "locus/base/error.h"
#include "locus/base/toml.h"

namespace locus::moe {

ExpertKernel run_experts_grouped, run_experts_loop;

namespace {

constexpr ExpertKernelEntry kExpertKernels[] = {
    {"grouped", "one autograd function over all experts, least memory", run_experts_grouped},
    {"loop", "plain operations expert by expert: the reference", run_experts_loop},
};

}  // namespace

std::span<const ExpertKernelEntry> expert_kernel_entries() { return kExpertKernels; }

std::vector<std::string> expert_kernel_names() {
  std::vector<std::string> names;
  for (const auto& entry : kExpertKernels) names.emplace_back(entry.name);
  return names;
}

const ExpertKernelEntry& find_expert_kernel(std::string_view name) {
  for (const auto& entry : kExpertKernels) {
    if (entry.name == name) return entry;
  }
  std::string known;
  for (const std::string& one : expert_kernel_names()) known += (known.empty() ? "" : ", ") + one;
  throw ConfigError("moe.experts = \"{}\" is not an expert kernel; known: {}", name, known);
}

Experts::Experts(int64_t num_experts, int64_t hidden_size, int64_t intermediate_size,
                 ops::Activation activation, bool with_bias, std::string_view kernel)
    : activation_(activation), kernel_(find_expert_kernel(kernel).run) {
  const int64_t rows = ops::up_rows(activation, intermediate_size);
  weights_.up_EUD = register_parameter("up_proj", at::empty({num_experts, rows, hidden_size}));
  weights_.down_EDF =
      register_parameter("down_proj", at::empty({num_experts, hidden_size, intermediate_size}));
  if (with_bias) {
    weights_.up_bias_EU = register_parameter("up_proj_bias", at::empty({num_experts, rows}));
    weights_.down_bias_ED =
        register_parameter("down_proj_bias", at::empty({num_experts, hidden_size}));
  }
}

at::Tensor Experts::forward(const at::Tensor& x_ND, const std::vector<int64_t>& counts_E) const {
  return forward(x_ND, counts_E, weights_);
}

at::Tensor Experts::forward(const at::Tensor& x_ND, const std::vector<int64_t>& counts_E,
                            const ops::FeedForwardWeights& weights) const {
  return kernel_(x_ND, counts_E, weights, activation_);
}

std::vector<ops::FeedForwardWeights> Experts::split_weights(
    const std::vector<int64_t>& sizes) const {
  std::vector<ops::FeedForwardWeights> parts(sizes.size());
  for (const auto member :
       {&ops::FeedForwardWeights::up_EUD, &ops::FeedForwardWeights::up_bias_EU,
        &ops::FeedForwardWeights::down_EDF, &ops::FeedForwardWeights::down_bias_ED}) {
    if (!(weights_.*member).defined()) continue;
    const std::vector<at::Tensor> views = at::split_with_sizes(weights_.*member, sizes);
    for (size_t p = 0; p < parts.size(); ++p) parts[p].*member = views[p];
  }
  return parts;
}

}  // namespace locus::moe
