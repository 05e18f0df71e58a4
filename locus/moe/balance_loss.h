// Losses of the routers: load balance and size of the logits.
//
// T tokens, E experts, K choices per token, S sequences. Coefficients are applied by add_losses()
// alone.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>

#include "locus/moe/config.h"
#include "locus/moe/router.h"

namespace locus::moe {

// E * sum_i f_i P_i (Shazeer et al., 2017; GShard; Switch): f_i = share of the assignments
// requested at expert i, no gradient; P_i = mean probability. 1 when uniform, E when all tokens go
// to one expert with probability 1. `requested_E` holds counts of any scale, of this micro-batch or
// more. `num_ranks` that share the tokens evenly: each has its part, and the parts sum to the loss.
at::Tensor balance_loss(const at::Tensor& probability_TE, const at::Tensor& requested_E,
                        int64_t num_ranks = 1);

// The mean over sequences of the loss of each sequence alone (DeepSeek-V2 and V3).
at::Tensor sequence_balance_loss(const at::Tensor& probability_TE, const at::Tensor& requested_TK,
                                 int64_t num_sequences);

// Mean of logsumexp(logits)^2 (ST-MoE: Zoph et al., 2022).
at::Tensor z_loss(const at::Tensor& logits_TE);

// The squared norm of the gradient of loss(p) for the logits whose softmax is p = probability_TE,
// float64 scalar. Of scores that are no softmax: for the logarithms of p.
at::Tensor squared_gradient(const at::Tensor& probability_TE,
                            const std::function<at::Tensor(const at::Tensor& p_TE)>& loss);

// What the losses of a routing are made of.
struct LossInputs {
  at::Tensor logits_TE;
  at::Tensor probability_TE;
  at::Tensor requested_TK;  // undefined: no balance loss
  at::Tensor requested_E;   // this rank, this step so far, this micro-batch included: scope
                            // global_batch
  int64_t num_sequences = 1;
  TokenPool pool;
  bool with_gradients = false;  // their squared norms, too
};

// Sets aux_loss, balance_loss and z_loss of `routing`: this rank's parts of them, which sum to the
// loss of all ranks' tokens. Those with coefficient 0 stay undefined. Sets its assignment's count_E
// where the scope wants it and it is not there yet.
void add_losses(const RouterConfig& config, const LossInputs& inputs, Routing& routing);

}  // namespace locus::moe
