// Encoders and encoder-decoders: the same layers, seen from both sides.

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "locus/model/size.h"
#include "locus/model/weight_plan.h"
#include "locus/ops/cross_entropy.h"
#include "tests/model/model_helpers.h"
#include "tests/support/tensors.h"

namespace locus::model {
namespace {

using test::distance;
using test::integers;

constexpr int64_t kVocab = 19, kHidden = 16;

constexpr const char* kEncoder = "[model]\nnum_encoder_layers = 2\n";
// One dense layer and one with experts on each side.
constexpr const char* kBoth =
    "[model]\nnum_hidden_layers = 4\nnum_encoder_layers = 2\n[moe]\nlayers = [1, 3]\n";

at::Tensor random_ids(int64_t rows, int64_t length, uint64_t seed) {
  return at::randint(kVocab, {rows, length}, at::detail::createCPUGenerator(seed),
                     at::TensorOptions(at::kLong));
}

at::Tensor positions(const at::Tensor& ids) {
  return at::arange(ids.size(1), at::kLong).expand_as(ids);
}

TransformerInput pair_of(const at::Tensor& source_BL, const at::Tensor& target_BS) {
  TransformerInput input;
  input.input_ids_BS = target_BS;
  input.position_ids_BS = positions(target_BS);
  input.source_ids_BL = source_BL;
  input.source_position_ids_BL = positions(source_BL);
  return input;
}

at::Tensor loss_of(Transformer& transformer, const TransformerInput& input) {
  const TransformerOutput out = transformer.forward(input);
  const at::Tensor label = input.input_ids_BS.flatten().roll(-1);
  return ops::linear_cross_entropy(out.hidden_TD, transformer.output_weight(), label).loss_sum /
             10 +
         out.aux_loss;
}

TEST(Encoder, SeesLaterTokensOfItsDocumentAlone) {
  const auto transformer = make(tiny("top_k", kEncoder));
  transformer->eval();
  const at::NoGradGuard no_grad;
  TransformerInput input;
  input.input_ids_BS = random_ids(1, 9, 1);
  input.position_ids_BS = positions(input.input_ids_BS);
  input.document_ids_BS = integers({0, 0, 0, 0, 1, 1, 1, 1, 1}).unsqueeze(0);
  const at::Tensor before = transformer->forward(input).hidden_TD;
  input.input_ids_BS = input.input_ids_BS.clone();
  input.input_ids_BS[0][8].add_(1).remainder_(kVocab);
  const at::Tensor after = transformer->forward(input).hidden_TD;
  EXPECT_TRUE(at::equal(before.narrow(0, 0, 4), after.narrow(0, 0, 4)));
  for (int64_t t = 4; t < 9; ++t) EXPECT_GT(distance(before[t], after[t]), 1e-5) << t;
}

class EncoderDecoder : public testing::TestWithParam<std::string> {};

TEST_P(EncoderDecoder, ComputesPackedPairsAsIfAlone) {
  const auto transformer = make(tiny(GetParam(), kBoth));
  transformer->eval();
  const at::NoGradGuard no_grad;
  const std::vector<int64_t> source_lengths{3, 5, 2}, target_lengths{4, 2, 3};
  const at::Tensor source = random_ids(1, 10, 2), target = random_ids(1, 9, 3);
  std::vector<at::Tensor> parts[4];
  int64_t source_begin = 0, target_begin = 0;
  std::vector<at::Tensor> alone;
  for (size_t d = 0; d < 3; ++d) {
    const int64_t s = source_lengths[d], t = target_lengths[d];
    parts[0].push_back(at::arange(s, at::kLong));
    parts[1].push_back(at::full({s}, static_cast<int64_t>(d), at::kLong));
    parts[2].push_back(at::arange(t, at::kLong));
    parts[3].push_back(at::full({t}, static_cast<int64_t>(d), at::kLong));
    alone.push_back(
        transformer
            ->forward(pair_of(source.narrow(1, source_begin, s), target.narrow(1, target_begin, t)))
            .hidden_TD);
    source_begin += s;
    target_begin += t;
  }
  TransformerInput packed = pair_of(source, target);
  packed.source_position_ids_BL = at::cat(parts[0]).unsqueeze(0);
  packed.source_document_ids_BL = at::cat(parts[1]).unsqueeze(0);
  packed.position_ids_BS = at::cat(parts[2]).unsqueeze(0);
  packed.document_ids_BS = at::cat(parts[3]).unsqueeze(0);
  EXPECT_LT(distance(transformer->forward(packed).hidden_TD, at::cat(alone)), 1e-5);
}

TEST_P(EncoderDecoder, ComputesTheSameWithACacheInRowsOfDifferentLengths) {
  const auto transformer = make(tiny(GetParam(), kBoth));
  transformer->eval();
  const at::NoGradGuard no_grad;
  const at::Tensor source = random_ids(2, 6, 4), target = random_ids(2, 5, 5);
  const std::vector<int64_t> lengths{6, 3};
  TransformerCache cache = transformer->make_cache(source, lengths, 5);
  at::Tensor got = at::empty({2, 5, kHidden});
  for (int64_t t = 0; t < 5; ++t) {
    got.select(1, t).copy_(transformer->forward_cached(target.narrow(1, t, 1), cache, {1, 1}));
  }
  for (int64_t b = 0; b < 2; ++b) {
    const at::Tensor text = source.narrow(0, b, 1).narrow(1, 0, lengths[static_cast<size_t>(b)]);
    const at::Tensor want = transformer->forward(pair_of(text, target.narrow(0, b, 1))).hidden_TD;
    EXPECT_LT(distance(got[b], want), 1e-5) << "row " << b;
  }
}

TEST_P(EncoderDecoder, HasTheSameGradientsWithRecomputation) {
  const Settings settings = tiny(GetParam(), kBoth);
  TransformerConfig config = settings.transformer();
  const TransformerInput input = pair_of(random_ids(2, 6, 6), random_ids(2, 6, 7));
  std::vector<std::vector<at::Tensor>> grads;
  for (const bool recompute : {false, true}) {
    config.recompute = recompute;
    Transformer transformer(config);
    loss_of(transformer, input).backward();
    grads.emplace_back();
    for (const at::Tensor& parameter : transformer.parameters()) {
      grads.back().push_back(parameter.grad());
    }
  }
  for (size_t i = 0; i < grads[0].size(); ++i) {
    ASSERT_EQ(grads[0][i].defined(), grads[1][i].defined()) << i;
    if (grads[0][i].defined()) {
      EXPECT_TRUE(at::equal(grads[0][i], grads[1][i])) << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Model, EncoderDecoder,
                         testing::Values("top_k", "switch", "hash", "dense_to_sparse", "soft"),
                         [](const auto& instance) { return instance.param; });

TEST(EncoderDecoder, ReadsTheOtherTextAndIsCausalOverItsOwn) {
  const auto transformer = make(tiny("top_k", kBoth));
  transformer->eval();
  const at::NoGradGuard no_grad;
  const at::Tensor source = random_ids(1, 6, 8), target = random_ids(1, 6, 9);
  const auto run = [&](const at::Tensor& s, const at::Tensor& t) {
    return transformer->forward(pair_of(s, t)).hidden_TD;
  };
  const at::Tensor before = run(source, target);
  at::Tensor other = source.clone();
  other[0][5].add_(1).remainder_(kVocab);
  for (int64_t t = 0; t < 6; ++t) EXPECT_GT(distance(run(other, target)[t], before[t]), 1e-5) << t;
  other = target.clone();
  other[0][3].add_(1).remainder_(kVocab);
  const at::Tensor after = run(source, other);
  EXPECT_TRUE(at::equal(after.narrow(0, 0, 3), before.narrow(0, 0, 3)));
  EXPECT_GT(distance(after[3], before[3]), 1e-5);
}

TEST(EncoderDecoder, HasTheGradientsOfTheFiniteDifferences) {
  TransformerConfig config = tiny("top_k", kBoth).transformer();
  Transformer transformer(config);
  for (at::Tensor& parameter : transformer.parameters()) {
    parameter.set_data(parameter.detach().to(at::kDouble));
  }
  const TransformerInput input = pair_of(random_ids(2, 5, 10), random_ids(2, 4, 11));
  test::expect_gradients(
      transformer.parameters(), [&] { return loss_of(transformer, input); }, 1e-5, 4);
}

// Shapes of all parameters are known without the model, as are their number and their names in
// files.
TEST(EncoderDecoder, IsDescribedAsItIs) {
  for (const std::string more :
       {"", "[model]\nqk_norm = \"full\"\nattention_bias = true\n",
        "[model]\nnorm_type = \"layernorm\"\nattention_output_bias = true\n"}) {
    for (const char* kind : {kEncoder, kBoth}) {
      Settings settings = tiny("top_k", kind);
      settings.read(more);
      const auto transformer = make(settings);
      EXPECT_EQ(count_parameters(settings.model, settings.moe).total(),
                num_parameters(*transformer))
          << more;
      const FamilyEntry& family = closest_family(settings.model, settings.moe);
      EXPECT_EQ(family.name, "locus");
      std::set<std::string> named;
      for (const TensorSlice& slice :
           family.tensors(settings.model, settings.moe, ExpertLayout::kEach)) {
        named.insert(slice.parameter);
      }
      for (const auto& item : transformer->named_parameters()) {
        const auto shape = parameter_shape(settings.model, settings.moe, item.key());
        ASSERT_TRUE(shape.has_value()) << item.key();
        EXPECT_EQ(item.value().sizes(), *shape) << item.key();
        EXPECT_TRUE(named.contains(item.key())) << item.key();
      }
    }
  }
}

// By hand, for a model of width 8 with one head: attention projections 8x24 + 8x8, twice in a
// decoder's layer beside an encoder.
TEST(EncoderDecoder, CountsItsOperations) {
  ModelConfig model;
  model.vocab_size = 10;
  model.hidden_size = 8;
  model.num_attention_heads = 1;
  model.num_hidden_layers = 2;
  model.num_encoder_layers = 1;
  model.intermediate_size = 5;
  moe::MoeConfig moe;
  moe.num_experts = 0;
  const double attention = 2.0 * (8 * 24 + 8 * 8), mlp = 2.0 * 3 * 8 * 5, output = 2.0 * 8 * 10;
  const double full_scores = 2 * 2 * 8 * 6;  // QK and PV against 6 tokens
  EXPECT_DOUBLE_EQ(forward_flops_per_token(model, moe, 6),
                   3 * attention + 2 * mlp + output + 2.5 * full_scores);
  model.num_encoder_layers = 2;
  EXPECT_DOUBLE_EQ(forward_flops_per_token(model, moe, 6, 0.15),
                   2 * attention + 2 * mlp + 0.15 * output + 2 * full_scores);
}

}  // namespace
}  // namespace locus::model
