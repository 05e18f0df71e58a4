// One part of a training step alone, forward and backward, with its work: how close each comes to
// what the machine can do (benchmarks/themes/roofline.py). The shape is that of configs/olmoe.toml.
//
// Work is what the part cannot do without: operations of its sums of products, and bytes of the
// tensors that come in and go out, each once.
#include <ATen/ATen.h>

#include <map>

#include "benchmarks/workers/serve.h"
#include "locus/app/session.h"
#include "locus/base/error.h"
#include "locus/ops/cross_entropy.h"
#include "locus/ops/feed_forward.h"
#include "locus/ops/heads.h"
#include "locus/ops/linear.h"
#include "locus/ops/rms_norm.h"
#include "locus/ops/rows.h"
#include "locus/train/optimizer.h"

namespace locus::benchmarks {
namespace {

constexpr int64_t kSequences = 8, kLength = 256, kTokens = kSequences * kLength;
constexpr int64_t kHidden = 256, kHeads = 4, kHeadDim = kHidden / kHeads;
constexpr int64_t kExperts = 8, kTopK = 2, kWidth = 512, kVocabulary = 8192;
constexpr int64_t kRows = kTokens * kTopK;

struct PartOptions {
  std::string part = "experts";
  std::string dtype = "float32";

  template <class V>
  void visit_fields(V& v) {
    v("part", part, "which part of a step");
    v("dtype", dtype, "type that computes");
  }
};

// Made once; run() is one repetition.
struct Part {
  double flops, bytes;
  std::function<void()> run;
};

at::Tensor random(at::IntArrayRef shape, at::ScalarType type) {
  return (at::randn(shape) * 0.1).to(type);
}

at::Tensor leaf(at::IntArrayRef shape, at::ScalarType type) {
  return random(shape, type).requires_grad_(true);
}

// Forward, then backward from a fixed gradient; gradients of leaves are dropped again.
std::function<void()> both_ways(std::vector<at::Tensor> leaves, std::function<at::Tensor()> f,
                                at::Tensor gradient) {
  return [=] {
    f().backward(gradient);
    for (const at::Tensor& one : leaves) one.mutable_grad().reset();
  };
}

double product(int64_t m, int64_t n, int64_t k) {
  return 2.0 * static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(k);
}

double bytes_of(std::initializer_list<at::Tensor> tensors) {
  double sum = 0;
  for (const at::Tensor& one : tensors) sum += static_cast<double>(one.nbytes());
  return sum;
}

// Weights are read forwards and backwards, and their gradients written; the input and the gradient
// of the result are read, and the result and the gradient of the input written.
Part make_projections(at::ScalarType type) {
  const at::Tensor x = leaf({kTokens, kHidden}, type);
  const at::Tensor qkv = leaf({3 * kHidden, kHidden}, at::kFloat);
  const at::Tensor out = leaf({kHidden, kHidden}, at::kFloat);
  const auto f = [=] {
    return ops::linear(ops::linear(x, qkv, {}).narrow(1, 0, kHidden), out, {});
  };
  return {3 * (product(kTokens, 3 * kHidden, kHidden) + product(kTokens, kHidden, kHidden)),
          3 * bytes_of({qkv, out}) + 12 * bytes_of({x}),
          both_ways({x, qkv, out}, f, random({kTokens, kHidden}, type))};
}

Part make_rotation(at::ScalarType type) {
  const at::Tensor x = leaf({kSequences, kLength, kHidden}, type);
  const at::Tensor angle = at::rand({kSequences, kLength, kHeadDim / 2});
  const auto f = [=, cos = angle.cos(), sin = angle.sin()] {
    return ops::to_heads(x, kHeads, cos, sin);
  };
  return {6.0 * static_cast<double>(x.numel()), 4 * bytes_of({x}),
          both_ways({x}, f, random({kSequences, kHeads, kLength, kHeadDim}, type))};
}

// Backwards: the scores once more and four products.
Part make_attention(at::ScalarType type) {
  const std::vector<int64_t> shape{kSequences, kHeads, kLength, kHeadDim};
  const at::Tensor q = leaf(shape, type), k = leaf(shape, type), v = leaf(shape, type);
  const auto f = [=] {
    return at::scaled_dot_product_attention(q, k, v, {}, 0.0, /*is_causal=*/true);
  };
  return {7 * product(kSequences * kHeads * kLength, kLength / 2, kHeadDim), 9 * bytes_of({q}),
          both_ways({q, k, v}, f, random(shape, type))};
}

Part make_norm(at::ScalarType type) {
  const at::Tensor x = leaf({kTokens, kHidden}, type), weight = leaf({kHidden}, at::kFloat);
  const auto f = [=] { return ops::rms_norm(x, weight, 1e-5); };
  return {10.0 * static_cast<double>(x.numel()), 5 * bytes_of({x}),
          both_ways({x, weight}, f, random({kTokens, kHidden}, type))};
}

Part make_experts(at::ScalarType type) {
  const at::Tensor x = leaf({kRows, kHidden}, type);
  const ops::FeedForwardWeights weights{leaf({kExperts, 2 * kWidth, kHidden}, at::kFloat),
                                        {},
                                        leaf({kExperts, kHidden, kWidth}, at::kFloat),
                                        {}};
  const std::vector<int64_t> counts(kExperts, kRows / kExperts);
  const auto f = [=] {
    return ops::grouped_feed_forward(x, counts, weights, ops::Activation::kSwiglu);
  };
  return {3 * product(kRows, 3 * kWidth, kHidden),
          3 * bytes_of({weights.up_EUD, weights.down_EDF}) + 4 * bytes_of({x}),
          both_ways({x, weights.up_EUD, weights.down_EDF}, f, random({kRows, kHidden}, type))};
}

// To the experts and back: gather, weighted sum, and the gradients of both.
Part make_permutation(at::ScalarType type) {
  const at::Tensor x = leaf({kTokens, kHidden}, type), weight = leaf({kRows}, at::kFloat);
  const at::Tensor token = at::randperm(kRows).remainder(kTokens);
  const auto f = [=] {
    return ops::combine_rows(ops::gather_rows(x, token), token, weight, kTokens);
  };
  return {4.0 * static_cast<double>(kRows * kHidden), (4 + 4 * kTopK) * bytes_of({x}),
          both_ways({x, weight}, f, random({kTokens, kHidden}, type))};
}

Part make_loss(at::ScalarType type) {
  const at::Tensor x = leaf({kTokens, kHidden}, type);
  const at::Tensor weight = leaf({kVocabulary, kHidden}, at::kFloat);
  const at::Tensor label = at::randint(kVocabulary, {kTokens});
  const auto f = [=] { return ops::linear_cross_entropy(x, weight, label).loss_sum; };
  return {3 * product(kTokens, kVocabulary, kHidden), 2 * bytes_of({x}) + 3 * bytes_of({weight}),
          both_ways({x, weight}, f, at::ones({}))};
}

// Reads weight, gradient and both moments, writes three of them: 1 GB, more than any cache.
Part make_adamw(at::ScalarType /*type*/) {
  const at::Tensor weight = leaf({8192, 8192}, at::kFloat);
  weight.mutable_grad() = random({8192, 8192}, at::kFloat);
  const std::shared_ptr<train::Optimizer> optimizer =
      train::make_optimizer({}, {{"weight", weight}});
  return {15.0 * static_cast<double>(weight.numel()), 7 * bytes_of({weight}),
          [=] { optimizer->step(1e-3, 1.0); }};
}

// The machine: bytes that a loop over memory moves, in place, on all threads.
Part make_stream(at::ScalarType /*type*/) {
  const at::Tensor x = random({1 << 28}, at::kFloat);
  return {0.0, 2 * bytes_of({x}), [=] { x.mul_(-1.0); }};
}

const std::map<std::string, Part (*)(at::ScalarType)> kParts = {{"adamw", make_adamw},
                                                                {"attention", make_attention},
                                                                {"stream", make_stream},
                                                                {"experts", make_experts},
                                                                {"loss", make_loss},
                                                                {"norm", make_norm},
                                                                {"permutation", make_permutation},
                                                                {"projections", make_projections},
                                                                {"rotation", make_rotation}};

}  // namespace

Worker make_step_part(const std::vector<std::string>& settings) {
  const auto options = parse_settings<PartOptions>(settings);
  const auto found = kParts.find(options.part);
  if (found == kParts.end()) {
    std::string known;
    for (const auto& [name, make] : kParts) known += (known.empty() ? "" : ", ") + name;
    throw ConfigError("part \"{}\" is not known; known: {}", options.part, known);
  }
  at::manual_seed(1);
  const Part part = found->second(app::parse_dtype(options.dtype));
  constexpr int kTimes = 5;  // one is too short to time
  return {{{"flops", part.flops}, {"bytes", part.bytes}}, [part]() -> Report {
            const Stopwatch watch;
            for (int i = 0; i < kTimes; ++i) part.run();
            return {{"seconds", watch.seconds() / kTimes}};
          }};
}

}  // namespace locus::benchmarks
