#include "locus/nn/cross_attention.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/reference/attention_reference.h"
#include "tests/support/tensors.h"

namespace locus::nn {
namespace {

using test::distance;
using test::integers;
using test::matrix_of;
using test::random_tensor;
using test::row_of;

constexpr int64_t kHidden = 12, kHeadDim = 4;

AttentionConfig config_of(const std::string& qk_norm, bool bias) {
  return {.hidden_size = kHidden,
          .num_heads = 4,
          .num_key_value_heads = 2,
          .head_dim = kHeadDim,
          .qkv_bias = bias,
          .output_bias = bias,
          .qk_norm = qk_norm,
          .norm_eps = 0.1};
}

CrossAttention make(const AttentionConfig& config) {
  CrossAttention attention(config);
  const at::NoGradGuard no_grad;
  attention.to(at::kDouble);
  uint64_t seed = 10;
  for (at::Tensor& parameter : attention.parameters()) {
    parameter.copy_(random_tensor(parameter.sizes(), seed++) * 0.7);
  }
  return attention;
}

// One row as loops; token i sees the tokens of `other` whose document is its own.
reference::Matrix loops(const CrossAttention& attention, const AttentionConfig& config,
                        const at::Tensor& x_SD, const at::Tensor& other_LD,
                        const std::vector<int64_t>& document,
                        const std::vector<int64_t>& other_document) {
  const auto named = attention.named_parameters();
  reference::Attention a;
  a.num_heads = 4;
  a.num_key_value_heads = 2;
  a.head_dim = kHeadDim;
  a.output = matrix_of(named["o_proj.weight"]);
  a.qk_norm = config.qk_norm;
  a.eps = 0.1;
  if (config.output_bias) a.output_bias = row_of(named["o_proj.bias"]);
  if (config.qk_norm != "none") {
    a.q_norm = row_of(named["q_norm.weight"]);
    a.k_norm = row_of(named["k_norm.weight"]);
  }
  const auto bias = [&](const char* name) {
    return config.qkv_bias ? row_of(named[name]) : reference::Row();
  };
  reference::Matrix q, k, v;
  for (const auto& token : matrix_of(x_SD)) {
    q.push_back(reference::linear(matrix_of(named["q_proj.weight"]), bias("q_proj.bias"), token));
  }
  const size_t kv_size = a.num_key_value_heads * a.head_dim;
  for (const auto& token : matrix_of(other_LD)) {
    const auto kv =
        reference::linear(matrix_of(named["kv_proj.weight"]), bias("kv_proj.bias"), token);
    k.push_back(reference::part(kv, 0, kv_size));
    v.push_back(reference::part(kv, kv_size, kv_size));
  }
  const std::vector<int64_t> nowhere(std::max(q.size(), k.size()), 0);
  return reference::attend(a, q, k, v, nowhere,
                           [&](size_t i, size_t j) { return document[i] == other_document[j]; });
}

TEST(CrossAttention, EqualsLoopsOverPackedPairs) {
  const std::vector<int64_t> document{0, 0, 1, 1, 1, 2, 2}, other_document{0, 1, 1, 2, 2};
  for (const std::string qk_norm : {"none", "head", "full"}) {
    const AttentionConfig config = config_of(qk_norm, qk_norm == "none");
    CrossAttention attention = make(config);
    const at::Tensor x = random_tensor({1, 7, kHidden}, 1),
                     other = random_tensor({1, 5, kHidden}, 2);
    const at::Tensor mask = pair_mask(integers(document).unsqueeze(0),
                                      integers(other_document).unsqueeze(0), at::kDouble);
    const at::Tensor y = attention.forward(x, attention.read(other), mask);
    EXPECT_LT(distance(y[0], loops(attention, config, x[0], other[0], document, other_document)),
              1e-5)
        << qk_norm;
  }
}

TEST(CrossAttention, SeesEverythingWithoutAMask) {
  const AttentionConfig config = config_of("none", false);
  CrossAttention attention = make(config);
  const at::Tensor x = random_tensor({1, 3, kHidden}, 3), other = random_tensor({1, 4, kHidden}, 4);
  const at::Tensor y = attention.forward(x, attention.read(other), {});
  EXPECT_LT(distance(y[0], loops(attention, config, x[0], other[0], {0, 0, 0}, {0, 0, 0, 0})),
            1e-5);
}

TEST(CrossAttention, HasTheGradientsOfTheFiniteDifferences) {
  CrossAttention attention = make(config_of("head", true));
  const at::Tensor x = test::random_leaf({2, 3, kHidden}, 5),
                   other = test::random_leaf({2, 4, kHidden}, 6);
  const at::Tensor probe = random_tensor({2, 3, kHidden}, 7);
  const at::Tensor mask = pair_mask(integers({0, 0, 1, 0, 1, 1}).view({2, 3}),
                                    integers({0, 1, 1, 1, 0, 0, 0, 1}).view({2, 4}), at::kDouble);
  std::vector<at::Tensor> leaves = attention.parameters();
  leaves.push_back(x);
  leaves.push_back(other);
  test::expect_gradients(
      leaves, [&] { return (attention.forward(x, attention.read(other), mask) * probe).sum(); },
      1e-6, 12);
}

TEST(PairMask, LetsATokenWithoutAPartnerSeeEverything) {
  const at::Tensor mask =
      pair_mask(integers({0, 1, 9}).unsqueeze(0), integers({1, 0}).unsqueeze(0), at::kFloat);
  EXPECT_EQ(mask.sizes(), (std::vector<int64_t>{1, 1, 3, 2}));
  const float no = -INFINITY;
  EXPECT_TRUE(at::equal(mask[0][0], at::tensor({no, 0.f, 0.f, no, 0.f, 0.f}).view({3, 2})));
}

}  // namespace
}  // namespace locus::nn
