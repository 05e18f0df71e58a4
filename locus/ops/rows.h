// Moving token rows: sorting assignments by expert, gathering rows for the experts, and combining
// the experts' rows into tokens again. All work is proportional to the number of assignments.
//
// T tokens, D hidden size, E experts, N assignments.
#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

namespace locus::ops {

// The stable order that puts assignments of equal expert side by side.
struct ExpertOrder {
  at::Tensor order_N;             // int64, on expert_N's device: sorted place -> assignment
  std::vector<int64_t> counts_E;  // assignments of each expert, on the host
};

// expert_N: int64 [N], values in [0, num_experts).
ExpertOrder sort_by_expert(const at::Tensor& expert_N, int64_t num_experts);

// out[n] = x[token[n]]; [N, D]. Differentiable in x.
at::Tensor gather_rows(const at::Tensor& x_TD, const at::Tensor& token_N);

// out[t] = sum over n with token[n] = t of weight[n] * y[n], summed in order of n in float32; [T,
// D] in y's type. Tokens without an assignment are zero. Differentiable in y and weight.
at::Tensor combine_rows(const at::Tensor& y_ND, const at::Tensor& token_N,
                        const at::Tensor& weight_N, int64_t num_tokens);

}  // namespace locus::ops
