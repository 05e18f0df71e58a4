#include "locus/ops/cross_entropy.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <functional>
#include <numeric>

#include "locus/base/error.h"
#include "locus/ops/products.h"

namespace locus::ops {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::tensor_list;

// About 16 MiB of float32 logits at a time: they stay near the cache, the products stay large.
constexpr int64_t kLogitsPerChunk = int64_t{4} << 20;

at::ScalarType accumulate_type(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

struct Buffers {
  at::Tensor loss_T, correct_T, dhidden_TD, dweight_VD;
  at::Tensor smoothing_T;  // what smoothed labels add to the loss; undefined without smoothing
  double smoothing = 0;
};

// One chunk of tokens: losses, and with buffers for them the gradients of the summed loss.
void run_chunk_aten(const at::Tensor& hidden_CD, const at::Tensor& weight_VD,
                    const at::Tensor& label_C, int64_t begin, Buffers& out) {
  const int64_t end = begin + hidden_CD.size(0);
  at::Tensor logits_CV = at::mm(hidden_CD, weight_VD.t()).to(accumulate_type(hidden_CD));
  const at::Tensor valid_C = label_C.ge(0);
  const at::Tensor target_C1 = label_C.clamp_min(0).unsqueeze(1);
  const at::Tensor log_sum_C = at::logsumexp(logits_CV, {1});
  const at::Tensor picked_C = logits_CV.gather(1, target_C1).squeeze(1);
  out.loss_T.slice(0, begin, end).copy_(at::where(valid_C, log_sum_C - picked_C, 0.0));
  if (out.smoothing_T.defined()) {
    const at::Tensor added_C = (picked_C - logits_CV.mean(1)) * out.smoothing;
    out.smoothing_T.slice(0, begin, end).copy_(at::where(valid_C, added_C, 0.0));
  }
  if (out.correct_T.defined()) {
    out.correct_T.slice(0, begin, end).copy_(logits_CV.argmax(1).eq(label_C).logical_and_(valid_C));
  }
  if (!out.dhidden_TD.defined()) return;
  // d loss / d logits = softmax - wanted probabilities, zero where there is no label.
  at::Tensor dlogits_CV = logits_CV.sub_(log_sum_C.unsqueeze(1)).exp_();
  if (out.smoothing > 0) dlogits_CV.sub_(out.smoothing / static_cast<double>(weight_VD.size(0)));
  dlogits_CV.scatter_add_(1, target_C1,
                          at::full_like(target_C1, out.smoothing - 1, logits_CV.options()));
  dlogits_CV.masked_fill_(valid_C.logical_not().unsqueeze(1), 0.0);
  const at::Tensor low_CV = dlogits_CV.to(hidden_CD.dtype());
  at::Tensor dhidden_CD = out.dhidden_TD.slice(0, begin, end);
  at::mm_out(dhidden_CD, low_CV, weight_VD);
  if (hidden_CD.scalar_type() == out.dweight_VD.scalar_type()) {
    out.dweight_VD.addmm_(low_CV.t(), hidden_CD);
  } else {
    out.dweight_VD.add_(at::mm(low_CV.t(), hidden_CD));
  }
}

// What finish_row() gives beside the gradient; null: not wanted.
struct RowResult {
  float* loss;
  bool* correct;
  float* smoothing;
};

// From the logits of one token: its loss, and in their place the loss's gradient.
void finish_row(float* logits, int64_t size, int64_t label, const RowResult& result,
                double smoothing, bool want_gradient) {
  if (label < 0) {
    if (want_gradient) std::fill_n(logits, size, 0.0f);
    return;
  }
  LOCUS_CHECK(label < size, "label {} of {} classes", label, size);
  if (result.correct != nullptr) {
    *result.correct = std::max_element(logits, logits + size) - logits == label;
  }
  const float log_sum = cpu::kernels().log_sum_exp(logits, size);
  *result.loss = log_sum - logits[label];
  if (result.smoothing != nullptr) {
    const double mean = std::accumulate(logits, logits + size, 0.0) / static_cast<double>(size);
    *result.smoothing = static_cast<float>(smoothing * (logits[label] - mean));
  }
  if (!want_gradient) return;
  cpu::kernels().softmax_of(logits, size, log_sum);
  if (smoothing > 0) {
    const auto share = static_cast<float>(smoothing / static_cast<double>(size));
    std::for_each(logits, logits + size, [share](float& logit) { logit -= share; });
  }
  logits[label] -= static_cast<float>(1.0 - smoothing);
}

// The same with the CPU's kernels: logits are float32 in every compute type, and the row of a token
// goes through the cache once.
void run_chunk_cpu(const at::Tensor& hidden_CD, const at::Tensor& weight_VD,
                   const at::Tensor& label_C, int64_t begin, Buffers& out) {
  const int64_t num_tokens = hidden_CD.size(0);
  const int64_t size = weight_VD.size(0);
  const int64_t dim = weight_VD.size(1);
  const cpu::Type type = cpu_type(hidden_CD);
  const at::Tensor logits_CV = at::empty({num_tokens, size}, hidden_CD.options().dtype(at::kFloat));
  auto* logits = logits_CV.mutable_data_ptr<float>();
  run_products({{.a = matrix(hidden_CD),
                 .b = transposed(weight_VD),
                 .m = num_tokens,
                 .n = size,
                 .k = dim,
                 .c = logits,
                 .c_stride = size}},
               type);
  const auto* label = label_C.const_data_ptr<int64_t>();
  auto* loss = out.loss_T.mutable_data_ptr<float>() + begin;
  bool* correct =
      out.correct_T.defined() ? out.correct_T.mutable_data_ptr<bool>() + begin : nullptr;
  float* smoothing =
      out.smoothing_T.defined() ? out.smoothing_T.mutable_data_ptr<float>() + begin : nullptr;
  const bool want_gradient = out.dhidden_TD.defined();
  parallel_rows(num_tokens, size, [&](int64_t first, int64_t last) {
    for (int64_t t = first; t < last; ++t) {
      const RowResult result{loss + t, correct == nullptr ? nullptr : correct + t,
                             smoothing == nullptr ? nullptr : smoothing + t};
      finish_row(logits + t * size, size, label[t], result, out.smoothing, want_gradient);
    }
  });
  if (!want_gradient) return;
  const at::Tensor dhidden_CD = out.dhidden_TD.narrow(0, begin, num_tokens);
  const std::function<void(const Block&)> store_hidden = [&](const Block& block) {
    cpu::kernels().store(block.c, block.c_stride, block.rows, block.columns, nullptr, type,
                         static_cast<char*>(mutable_row_address(dhidden_CD, block.row)) +
                             block.column * dhidden_CD.element_size(),
                         dim);
  };
  run_products({{.a = matrix(logits_CV),
                 .b = matrix(weight_VD),
                 .m = num_tokens,
                 .n = dim,
                 .k = size,
                 .finish = &store_hidden},
                {.a = transposed(logits_CV),
                 .b = matrix(hidden_CD),
                 .m = size,
                 .n = dim,
                 .k = num_tokens,
                 .c = out.dweight_VD.mutable_data_ptr<float>(),
                 .c_stride = dim,
                 .accumulate = true}},
               type);
}

class LinearCrossEntropy : public torch::autograd::Function<LinearCrossEntropy> {
 public:
  static tensor_list forward(AutogradContext* ctx, const at::Tensor& hidden_TD,
                             const at::Tensor& weight_VD, const at::Tensor& label_T,
                             bool want_gradient, bool want_correct, double label_smoothing) {
    const int64_t num_tokens = hidden_TD.size(0);
    const bool on_cpu = has_cpu_kernels(hidden_TD) && weight_VD.scalar_type() == at::kFloat;
    const auto run_chunk = on_cpu ? run_chunk_cpu : run_chunk_aten;
    const at::Tensor low_VD = on_cpu ? weight_VD : weight_VD.to(hidden_TD.dtype());
    Buffers out;
    out.loss_T = at::zeros({num_tokens}, hidden_TD.options().dtype(accumulate_type(hidden_TD)));
    out.smoothing = label_smoothing;
    if (label_smoothing > 0) out.smoothing_T = at::zeros_like(out.loss_T);
    if (want_correct) out.correct_T = at::zeros({num_tokens}, hidden_TD.options().dtype(at::kBool));
    if (want_gradient) {
      out.dhidden_TD = at::empty_like(hidden_TD);
      out.dweight_VD = at::zeros_like(weight_VD);
    }
    const int64_t chunk = std::max<int64_t>(1, kLogitsPerChunk / weight_VD.size(0));
    for (int64_t begin = 0; begin < num_tokens; begin += chunk) {
      const int64_t size = std::min(chunk, num_tokens - begin);
      run_chunk(hidden_TD.narrow(0, begin, size), low_VD, label_T.narrow(0, begin, size), begin,
                out);
    }
    if (want_gradient) ctx->save_for_backward({out.dhidden_TD, out.dweight_VD});
    const at::Tensor correct = want_correct ? out.correct_T : at::empty({0}, at::kBool);
    ctx->mark_non_differentiable({out.loss_T, correct});
    // Losses of many tokens are added up in double: the mean must not depend on their number.
    at::Tensor sum = out.loss_T.sum(at::kDouble);
    if (out.smoothing_T.defined()) sum = sum + out.smoothing_T.sum(at::kDouble);
    return {sum.to(out.loss_T.dtype()), out.loss_T, correct};
  }

  static tensor_list backward(AutogradContext* ctx, tensor_list grads) {
    const auto saved = ctx->get_saved_variables();
    LOCUS_CHECK(saved.size() == 2, "cross entropy was computed without gradients");
    const at::Tensor& scale = grads[0];
    at::Tensor dhidden = saved[0];
    at::Tensor dweight = saved[1];
    // In place and with the scale in full precision: these buffers are ours alone.
    return {dhidden.mul_(scale), dweight.mul_(scale), {}, {}, {}, {}};
  }
};

}  // namespace

CrossEntropy linear_cross_entropy(const at::Tensor& hidden_TD, const at::Tensor& weight_VD,
                                  const at::Tensor& label_T, bool want_correct,
                                  double label_smoothing) {
  LOCUS_CHECK(hidden_TD.size(1) == weight_VD.size(1) && label_T.numel() == hidden_TD.size(0),
              "{} labels for {} tokens of {}, weights of {}", label_T.numel(), hidden_TD.size(0),
              hidden_TD.size(1), weight_VD.size(1));
  const bool want_gradient =
      at::GradMode::is_enabled() && (hidden_TD.requires_grad() || weight_VD.requires_grad());
  const auto compute = [&](const at::Tensor& hidden, const at::Tensor& label) -> CrossEntropy {
    const tensor_list out =
        LinearCrossEntropy::apply(hidden.contiguous(), weight_VD.contiguous(), label.contiguous(),
                                  want_gradient, want_correct, label_smoothing);
    return {out[0], out[1], want_correct ? out[2] : at::Tensor()};
  };
  const at::Tensor kept = label_T.ge(0).nonzero().squeeze(1);
  if (2 * kept.numel() > label_T.numel()) return compute(hidden_TD, label_T);
  CrossEntropy some = compute(hidden_TD.index_select(0, kept), label_T.index_select(0, kept));
  const auto spread = [&](const at::Tensor& values) {
    if (!values.defined()) return values;
    return at::zeros({label_T.numel()}, values.options()).index_copy_(0, kept, values);
  };
  return {some.loss_sum, spread(some.loss_T), spread(some.correct_T)};
}

}  // namespace locus::ops
