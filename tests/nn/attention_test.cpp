#include "locus/nn/attention.h"

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

constexpr int64_t kHidden = 12, kTokens = 9;
constexpr double kTheta = 100;

struct Case {
  const char* name;
  int64_t num_heads, num_key_value_heads;
  const char* qk_norm = "none";
  bool bias = false;
  bool rope = true;
};

AttentionConfig config_of(const Case& c) {
  return {.hidden_size = kHidden,
          .num_heads = c.num_heads,
          .num_key_value_heads = c.num_key_value_heads,
          .head_dim = 4,
          .qkv_bias = c.bias,
          .output_bias = c.bias,
          .qk_norm = c.qk_norm,
          .norm_eps = 0.1};
}

// All parameters random, norms and biases too.
Attention make(const Case& c, at::ScalarType type = at::kDouble) {
  Attention attention(config_of(c));
  const at::NoGradGuard no_grad;
  attention.to(type);
  uint64_t seed = 10;
  for (at::Tensor& parameter : attention.parameters()) {
    parameter.copy_(random_tensor(parameter.sizes(), seed++) * 0.7);
  }
  return attention;
}

reference::Attention reference_of(const Attention& attention, const Case& c) {
  const auto named = attention.named_parameters();
  reference::Attention out;
  out.num_heads = static_cast<size_t>(c.num_heads);
  out.num_key_value_heads = static_cast<size_t>(c.num_key_value_heads);
  out.head_dim = 4;
  out.qkv = matrix_of(named["qkv_proj.weight"]);
  out.output = matrix_of(named["o_proj.weight"]);
  if (c.bias) {
    out.qkv_bias = row_of(named["qkv_proj.bias"]);
    out.output_bias = row_of(named["o_proj.bias"]);
  }
  out.qk_norm = c.qk_norm;
  if (out.qk_norm != "none") {
    out.q_norm = row_of(named["q_norm.weight"]);
    out.k_norm = row_of(named["k_norm.weight"]);
  }
  out.eps = 0.1;
  out.theta = c.rope ? kTheta : 0;
  return out;
}

AttentionInput input_of(const Case& c, const std::vector<std::vector<int64_t>>& positions,
                        const std::vector<std::vector<int64_t>>& documents,
                        at::ScalarType type = at::kDouble) {
  std::vector<at::Tensor> position, document;
  for (const auto& row : positions) position.push_back(integers(row));
  for (const auto& row : documents) document.push_back(integers(row));
  AttentionInput input;
  if (c.rope) input.rope = rope_table(at::stack(position), {.head_dim = 4, .theta = kTheta});
  input.mask_B1SL = document_mask(at::stack(document), type);
  return input;
}

const std::vector<std::vector<int64_t>> kPositions{{0, 1, 2, 3, 4, 5, 6, 7, 8},
                                                   {0, 1, 2, 0, 1, 0, 1, 2, 3}};
const std::vector<std::vector<int64_t>> kDocuments{{0, 0, 0, 0, 0, 0, 0, 0, 0},
                                                   {0, 0, 0, 1, 1, 2, 2, 2, 2}};

class AttentionShapes : public testing::TestWithParam<Case> {};

TEST_P(AttentionShapes, EqualsLoopsWithPackedDocuments) {
  Attention attention = make(GetParam());
  const reference::Attention loops = reference_of(attention, GetParam());
  const at::Tensor x = random_tensor({2, kTokens, kHidden}, 1);
  const at::Tensor y = attention.forward(x, input_of(GetParam(), kPositions, kDocuments));
  for (int64_t b = 0; b < 2; ++b) {
    const auto row = static_cast<size_t>(b);
    const auto want =
        reference::attention(loops, matrix_of(x[b]), kPositions[row], kDocuments[row]);
    EXPECT_LT(distance(y[b], want), 1e-5) << "row " << b;
  }
}

TEST_P(AttentionShapes, OfAnEncoderEqualsLoopsWithAndWithoutAMask) {
  Attention attention = make(GetParam());
  const reference::Attention loops = reference_of(attention, GetParam());
  const at::Tensor x = random_tensor({1, kTokens, kHidden}, 7);
  for (const size_t row : {0u, 1u}) {
    AttentionInput input = input_of(GetParam(), {kPositions[row]}, {kDocuments[row]});
    input.is_causal = false;
    input.mask_B1SL = document_mask(integers(kDocuments[row]).unsqueeze(0), at::kDouble, false);
    EXPECT_EQ(input.mask_B1SL.defined(), row == 1);
    const auto want =
        reference::attention(loops, matrix_of(x[0]), kPositions[row], kDocuments[row], false);
    EXPECT_LT(distance(attention.forward(x, input)[0], want), 1e-5) << "row " << row;
  }
}

TEST_P(AttentionShapes, EqualsLoopsWithoutAMaskInFloat32) {
  Attention attention = make(GetParam(), at::kFloat);
  const at::Tensor x = random_tensor({1, kTokens, kHidden}, 2, at::kFloat);
  const AttentionInput input = input_of(GetParam(), {kPositions[0]}, {kDocuments[0]});
  EXPECT_FALSE(input.mask_B1SL.defined());
  const auto want = reference::attention(reference_of(attention, GetParam()), matrix_of(x[0]),
                                         kPositions[0], kDocuments[0]);
  EXPECT_LT(distance(attention.forward(x, input)[0], want), 1e-5);
}

TEST_P(AttentionShapes, HasTheGradientsOfTheFiniteDifferences) {
  Attention attention = make(GetParam());
  const at::Tensor x = test::random_leaf({2, kTokens, kHidden}, 3);
  const at::Tensor probe = random_tensor({2, kTokens, kHidden}, 4);
  const AttentionInput masked = input_of(GetParam(), kPositions, kDocuments);
  const AttentionInput causal = input_of(GetParam(), kPositions, {kDocuments[0], kDocuments[0]});
  for (const AttentionInput* input : {&masked, &causal}) {
    std::vector<at::Tensor> leaves = attention.parameters();
    leaves.push_back(x);
    test::expect_gradients(
        leaves, [&] { return (attention.forward(x, *input) * probe).sum(); }, 1e-6, 12);
  }
}

INSTANTIATE_TEST_SUITE_P(Nn, AttentionShapes,
                         testing::Values(Case{"MultiHead", 3, 3}, Case{"Grouped", 4, 2},
                                         Case{"MultiQuery", 4, 1}, Case{"HeadNorm", 4, 2, "head"},
                                         Case{"FullNorm", 4, 2, "full"},
                                         Case{"BiasesWithoutRope", 3, 3, "none", true, false}),
                         [](const auto& instance) { return instance.param.name; });

const Case kGrouped{"Grouped", 4, 2};

TEST(Attention, IsBlindToOtherDocumentsAndLaterTokens) {
  Attention attention = make(kGrouped, at::kFloat);
  const at::NoGradGuard no_grad;
  const at::Tensor x = random_tensor({1, kTokens, kHidden}, 5, at::kFloat);
  const AttentionInput input = input_of(kGrouped, {kPositions[1]}, {kDocuments[1]}, at::kFloat);
  const at::Tensor y = attention.forward(x, input);
  for (int64_t changed = 0; changed < kTokens; ++changed) {
    at::Tensor other = x.clone();
    other[0][changed].add_(100);
    const at::Tensor moved = attention.forward(other, input).ne(y).any(2)[0];
    for (int64_t t = 0; t < kTokens; ++t) {
      const bool sees = t >= changed && kDocuments[1][static_cast<size_t>(t)] ==
                                            kDocuments[1][static_cast<size_t>(changed)];
      EXPECT_EQ(moved[t].item<bool>(), sees) << "token " << t << ", changed " << changed;
    }
  }
}

TEST(Attention, WithACacheEqualsAttentionWithout) {
  Attention attention = make(kGrouped);
  const at::NoGradGuard no_grad;
  const at::Tensor x = random_tensor({2, kTokens, kHidden}, 6);
  const at::Tensor want = attention.forward(
      x, input_of(kGrouped, {kPositions[0], kPositions[0]}, {kDocuments[0], kDocuments[0]}));
  KvCache cache{at::zeros({2, 2, 12, 4}, at::kDouble), at::zeros({2, 2, 12, 4}, at::kDouble)};
  int64_t done = 0;
  for (const int64_t count : {4, 1, 1, 3}) {
    AttentionInput input;
    const at::Tensor place = at::arange(done, done + count, at::kLong);
    input.rope = rope_table(place.expand({2, count}), {.head_dim = 4, .theta = kTheta});
    input.cache_lengths = {done, done};
    const at::Tensor later =
        at::arange(done + count, at::kLong).unsqueeze(0).gt(place.unsqueeze(1));
    input.mask_B1SL = at::zeros(later.sizes(), at::kDouble)
                          .masked_fill(later, -INFINITY)
                          .expand({2, 1, count, -1});
    EXPECT_LT(distance(attention.forward(x.narrow(1, done, count), input, &cache),
                       want.narrow(1, done, count)),
              1e-12);
    done += count;
  }
}

TEST(DocumentMask, IsAbsentWhereEachRowIsOneDocument) {
  EXPECT_FALSE(document_mask(integers({4, 4, 4, 5, 5, 5}).view({2, 3}), at::kFloat).defined());
}

TEST(DocumentMask, OpensTheCausalPartOfEachDocument) {
  const at::Tensor mask = document_mask(integers({0, 0, 1, 1}).view({1, 4}), at::kBFloat16);
  EXPECT_EQ(mask.sizes(), (std::vector<int64_t>{1, 1, 4, 4}));
  EXPECT_EQ(mask.scalar_type(), at::kBFloat16);
  const std::vector<std::string> want{"0---", "00--", "--0-", "--00"};
  for (int64_t i = 0; i < 4; ++i) {
    for (int64_t j = 0; j < 4; ++j) {
      const bool open = want[static_cast<size_t>(i)][static_cast<size_t>(j)] == '0';
      EXPECT_EQ(mask[0][0][i][j].item<float>(), open ? 0 : -INFINITY) << i << " " << j;
    }
  }
}

}  // namespace
}  // namespace locus::nn
