#include "locus/ops/distillation.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>

#include "locus/base/error.h"

namespace locus::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

// As in cross_entropy.cpp, of two models.
constexpr int64_t kLogitsPerChunk = int64_t{2} << 20;

at::Tensor log_probabilities(const at::Tensor& hidden_CD, const at::Tensor& weight_VD) {
  const at::ScalarType type = hidden_CD.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  return at::log_softmax(at::mm(hidden_CD, weight_VD.t()).to(type), 1);
}

class LinearDistillation : public torch::autograd::Function<LinearDistillation> {
 public:
  static tensor_list forward(AutogradContext* ctx, const at::Tensor& hidden_TD,
                             const at::Tensor& weight_VD, const at::Tensor& label_T,
                             const at::Tensor& teacher_hidden_TD,
                             const at::Tensor& teacher_weight_VD, double label_share) {
    const at::Tensor low_VD = weight_VD.to(hidden_TD.dtype());
    const at::Tensor teacher_VD = teacher_weight_VD.to(teacher_hidden_TD.dtype());
    const at::Tensor dhidden_TD = at::zeros_like(hidden_TD);
    const at::Tensor dweight_VD = at::zeros_like(weight_VD);
    at::Tensor loss = at::zeros({}, hidden_TD.options().dtype(at::kDouble));
    at::Tensor entropy = at::zeros_like(loss);
    const int64_t chunk = std::max<int64_t>(1, kLogitsPerChunk / weight_VD.size(0));
    for (int64_t begin = 0; begin < hidden_TD.size(0); begin += chunk) {
      const int64_t size = std::min(chunk, hidden_TD.size(0) - begin);
      const at::Tensor hidden_CD = hidden_TD.narrow(0, begin, size);
      const at::Tensor label_C = label_T.narrow(0, begin, size);
      const at::Tensor log_p_CV = log_probabilities(hidden_CD, low_VD);
      const at::Tensor log_t_CV =
          log_probabilities(teacher_hidden_TD.narrow(0, begin, size), teacher_VD);
      const at::Tensor t_CV = log_t_CV.exp();
      const at::Tensor valid_C = label_C.ge(0);
      const at::Tensor target_C1 = label_C.clamp_min(0).unsqueeze(1);
      const at::Tensor entropy_C = -log_p_CV.gather(1, target_C1).squeeze(1);
      const at::Tensor divergence_C = (t_CV * (log_t_CV - log_p_CV)).sum(1);
      const auto add = [&](at::Tensor& sum, const at::Tensor& value_C) {
        sum += at::where(valid_C, value_C, 0.0).sum(at::kDouble);
      };
      add(entropy, entropy_C);
      add(loss, label_share * entropy_C + (1 - label_share) * divergence_C);
      // d loss / d logits = p - wanted probabilities, zero where there is no label.
      at::Tensor dlogits_CV = log_p_CV.exp().sub_(t_CV, 1 - label_share);
      dlogits_CV.scatter_add_(1, target_C1, at::full_like(target_C1, -label_share, t_CV.options()));
      dlogits_CV.masked_fill_(valid_C.logical_not().unsqueeze(1), 0.0);
      const at::Tensor low_CV = dlogits_CV.to(hidden_CD.dtype());
      dhidden_TD.narrow(0, begin, size).copy_(at::mm(low_CV, low_VD));
      dweight_VD.add_(at::mm(low_CV.t(), hidden_CD));
    }
    ctx->save_for_backward({dhidden_TD, dweight_VD});
    ctx->mark_non_differentiable({entropy});
    const at::ScalarType type = hidden_TD.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
    return {loss.to(type), entropy};
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const auto saved = ctx->get_saved_variables();
    // In place: these buffers are ours alone.
    at::Tensor dhidden = saved[0], dweight = saved[1];
    return {dhidden.mul_(grads[0]), dweight.mul_(grads[0]), {}, {}, {}, {}};
  }
};

}  // namespace

Distillation linear_distillation(const at::Tensor& hidden_TD, const at::Tensor& weight_VD,
                                 const at::Tensor& label_T, const at::Tensor& teacher_hidden_TD,
                                 const at::Tensor& teacher_weight_VD, double label_share) {
  LOCUS_CHECK(hidden_TD.size(0) == teacher_hidden_TD.size(0) &&
                  label_T.numel() == hidden_TD.size(0) &&
                  weight_VD.size(0) == teacher_weight_VD.size(0),
              "{} labels for {} tokens, {} of a teacher", label_T.numel(), hidden_TD.size(0),
              teacher_hidden_TD.size(0));
  // Where few tokens have labels, as with masked ones, the others need no logits.
  const at::Tensor kept = label_T.ge(0).nonzero().squeeze(1);
  const bool is_all = kept.numel() == label_T.numel();
  const auto some = [&](const at::Tensor& rows) {
    return is_all ? rows.contiguous() : rows.index_select(0, kept);
  };
  const tensor_list out = LinearDistillation::apply(some(hidden_TD), weight_VD, some(label_T),
                                                    some(teacher_hidden_TD.detach()),
                                                    teacher_weight_VD.detach(), label_share);
  return {out[0], out[1]};
}

}  // namespace locus::ops
