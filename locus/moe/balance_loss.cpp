#include "locus/moe/balance_loss.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <functional>

#include "locus/base/error.h"
#include "locus/moe/router_math.h"

namespace locus::moe {
namespace {

using LossOf = std::function<at::Tensor(const at::Tensor&)>;

// Of the loss alone, at the value of `at`; also where no gradients are asked for, as in the first
// pass of a layer that is recomputed.
at::Tensor gradient(const at::Tensor& at, const LossOf& loss) {
  const at::AutoGradMode with_gradients(true);
  const at::Tensor leaf = at.detach().clone().requires_grad_();
  return torch::autograd::grad({loss(leaf)}, {leaf})[0];
}

at::Tensor scoped_balance_loss(const RouterConfig& config, const LossInputs& inputs,
                               const at::Tensor& probability_TE, Assignment& assignment) {
  const int64_t num_ranks = inputs.pool.num_ranks();
  if (config.aux_loss_scope == "sequence") {
    return sequence_balance_loss(probability_TE, inputs.requested_TK, inputs.num_sequences) /
           num_ranks;
  }
  if (!assignment.count_E.defined()) {
    const at::Tensor own_E = config.aux_loss_scope == "global_batch"
                                 ? inputs.requested_E
                                 : count_experts(inputs.requested_TK, probability_TE.size(1));
    assignment.count_E = inputs.pool.sum(own_E);
  }
  return balance_loss(probability_TE, assignment.count_E, num_ranks);
}

}  // namespace

at::Tensor squared_gradient(const at::Tensor& probability_TE, const LossOf& loss) {
  const at::Tensor p_TE = probability_TE.detach();
  const at::Tensor for_p_TE = gradient(p_TE, loss);
  const at::Tensor for_logits_TE = p_TE * (for_p_TE - (for_p_TE * p_TE).sum(1, true));
  return for_logits_TE.to(at::kDouble).square().sum();
}

at::Tensor balance_loss(const at::Tensor& probability_TE, const at::Tensor& requested_E,
                        int64_t num_ranks) {
  const auto [num_tokens, num_experts] = std::pair(probability_TE.size(0), probability_TE.size(1));
  const at::Tensor mean_E = probability_TE.sum(0) / (std::max<int64_t>(1, num_tokens) * num_ranks);
  const at::Tensor share_E = requested_E / requested_E.sum().clamp_min(1);
  return (share_E.to(mean_E.scalar_type()) * mean_E).sum() * num_experts;
}

at::Tensor sequence_balance_loss(const at::Tensor& probability_TE, const at::Tensor& requested_TK,
                                 int64_t num_sequences) {
  const int64_t num_experts = probability_TE.size(1);
  LOCUS_CHECK(num_sequences >= 1 && probability_TE.size(0) % num_sequences == 0,
              "{} tokens in {} sequences", probability_TE.size(0), num_sequences);
  const int64_t length = probability_TE.size(0) / num_sequences;
  const at::Tensor mean_SE = probability_TE.reshape({num_sequences, length, num_experts}).sum(1) /
                             std::max<int64_t>(1, length);
  const at::Tensor offset_S = at::arange(num_sequences, requested_TK.options()) * num_experts;
  const at::Tensor place =
      requested_TK.reshape({num_sequences, length * requested_TK.size(1)}) + offset_S.unsqueeze(1);
  const at::Tensor count_SE =
      count_experts(place, num_sequences * num_experts).reshape({num_sequences, num_experts});
  const at::Tensor share_SE =
      count_SE.to(mean_SE.scalar_type()) / std::max<int64_t>(1, length * requested_TK.size(1));
  return (share_SE * mean_SE).sum() * num_experts / num_sequences;
}

at::Tensor z_loss(const at::Tensor& logits_TE) {
  const at::Tensor size_T = at::logsumexp(logits_TE, {1});
  return size_T.square().sum() / std::max<int64_t>(1, logits_TE.size(0));
}

void add_losses(const RouterConfig& config, const LossInputs& inputs, Routing& routing) {
  const auto add = [&routing](const at::Tensor& loss) {
    routing.aux_loss = routing.aux_loss.defined() ? routing.aux_loss + loss : loss;
    return loss.detach();
  };
  if (config.aux_loss_coeff > 0 && inputs.requested_TK.defined()) {
    const auto loss = [&](const at::Tensor& probability_TE) {
      return scoped_balance_loss(config, inputs, probability_TE, routing.assignment) *
             config.aux_loss_coeff;
    };
    routing.balance_loss = add(loss(inputs.probability_TE));
    if (inputs.with_gradients) {
      routing.balance_gradient = squared_gradient(inputs.probability_TE, loss);
    }
  }
  if (config.z_loss_coeff > 0) {
    const auto loss = [&](const at::Tensor& logits_TE) {
      return z_loss(logits_TE) * config.z_loss_coeff / inputs.pool.num_ranks();
    };
    routing.z_loss = add(loss(inputs.logits_TE));
    if (inputs.with_gradients) {
      routing.z_gradient = gradient(inputs.logits_TE, loss).to(at::kDouble).square().sum();
    }
  }
}

}  // namespace locus::moe
