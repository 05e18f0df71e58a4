#include "locus/model/transformer.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "locus/base/error.h"
#include "locus/ops/cross_entropy.h"
#include "tests/model/model_helpers.h"
#include "tests/support/tensors.h"

namespace locus::model {
namespace {

using test::distance;
using test::integers;

constexpr int64_t kVocab = 19, kHidden = 16;

at::Tensor random_ids(int64_t rows, int64_t length, uint64_t seed) {
  return at::randint(kVocab, {rows, length}, at::detail::createCPUGenerator(seed),
                     at::TensorOptions(at::kLong));
}

// Rows of one document each.
TransformerInput input_of(const at::Tensor& ids_BS) {
  TransformerInput input;
  input.input_ids_BS = ids_BS;
  input.position_ids_BS = at::arange(ids_BS.size(1), at::kLong).expand_as(ids_BS);
  return input;
}

// Documents of these lengths side by side in one row, positions restarting.
TransformerInput packed_input(const at::Tensor& ids_BS, const std::vector<int64_t>& lengths) {
  std::vector<at::Tensor> position, document;
  for (size_t d = 0; d < lengths.size(); ++d) {
    position.push_back(at::arange(lengths[d], at::kLong));
    document.push_back(at::full({lengths[d]}, static_cast<int64_t>(d), at::kLong));
  }
  TransformerInput input;
  input.input_ids_BS = ids_BS;
  input.position_ids_BS = at::cat(position).expand_as(ids_BS);
  input.document_ids_BS = at::cat(document).expand_as(ids_BS);
  return input;
}

at::Tensor loss_of(Transformer& transformer, const TransformerInput& input) {
  const TransformerOutput out = transformer.forward(input);
  const at::Tensor label = input.input_ids_BS.flatten().roll(-1);
  return ops::linear_cross_entropy(out.hidden_TD, transformer.output_weight(), label).loss_sum /
             10 +
         out.aux_loss;
}

class DecoderWithRouter : public testing::TestWithParam<std::string> {};

TEST_P(DecoderWithRouter, GivesHiddenStatesAndALoss) {
  const auto transformer = make(tiny(GetParam()));
  ASSERT_EQ(transformer->moe_layers().size(), 1u);
  EXPECT_EQ(transformer->moe_layers()[0].first, 1);
  const TransformerOutput out = transformer->forward(input_of(random_ids(3, 7, 1)));
  EXPECT_EQ(out.hidden_TD.sizes(), (std::vector<int64_t>{21, kHidden}));
  EXPECT_TRUE(out.hidden_TD.isfinite().all().item<bool>());
  EXPECT_EQ(out.aux_loss.dim(), 0);
  EXPECT_EQ(out.aux_loss.scalar_type(), at::kFloat);
  EXPECT_EQ(transformer->output_weight().sizes(), (std::vector<int64_t>{kVocab, kHidden}));
}

TEST_P(DecoderWithRouter, ComputesPackedDocumentsAsIfAlone) {
  const auto transformer = make(tiny(GetParam()));
  transformer->eval();
  const at::NoGradGuard no_grad;
  const at::Tensor ids = random_ids(2, 12, 2);
  const at::Tensor packed =
      transformer->forward(packed_input(ids, {3, 5, 4})).hidden_TD.view({2, 12, kHidden});
  int64_t begin = 0;
  for (const int64_t length : {3, 5, 4}) {
    const at::Tensor alone = transformer->forward(input_of(ids.narrow(1, begin, length))).hidden_TD;
    EXPECT_LT(distance(packed.narrow(1, begin, length).reshape({-1, kHidden}), alone), 1e-5)
        << begin;
    begin += length;
  }
}

TEST_P(DecoderWithRouter, DoesNotLookAheadInEvaluation) {
  const auto transformer = make(tiny(GetParam(), "[moe.router]\ncapacity_factor = 0.5"));
  transformer->eval();
  const at::NoGradGuard no_grad;
  const at::Tensor ids = random_ids(1, 12, 3);
  at::Tensor changed = ids.clone();
  changed.narrow(1, 8, 4).add_(1).remainder_(kVocab);
  const at::Tensor a = transformer->forward(input_of(ids)).hidden_TD,
                   b = transformer->forward(input_of(changed)).hidden_TD;
  EXPECT_LT(distance(a.narrow(0, 0, 8), b.narrow(0, 0, 8)), 1e-5);
  EXPECT_GT(distance(a.narrow(0, 8, 4), b.narrow(0, 8, 4)), 1e-2);
}

TEST_P(DecoderWithRouter, ComputesTheSameWithACacheInRowsOfDifferentLengths) {
  const auto transformer = make(tiny(GetParam()));
  transformer->eval();
  const at::NoGradGuard no_grad;
  const std::vector<at::Tensor> rows{random_ids(1, 12, 4)[0], random_ids(1, 12, 5)[0]};
  std::vector<at::Tensor> want;
  for (const at::Tensor& row : rows)
    want.push_back(transformer->forward(input_of(row.unsqueeze(0))).hidden_TD);

  TransformerCache cache = transformer->make_cache(2, 20);
  // Prompts of 6 and 2 tokens, then tokens one by one, then 1 and 3 at once.
  const std::vector<std::vector<int64_t>> chunks{{6, 2}, {1, 1}, {1, 1}, {1, 3}, {1, 1}};
  for (const auto& num_new : chunks) {
    const int64_t width = std::max(num_new[0], num_new[1]);
    const std::vector<int64_t> before = cache.lengths;
    at::Tensor ids = at::full({2, width}, 7, at::kLong);  // padding is any token
    for (int64_t b = 0; b < 2; ++b) {
      const auto at_b = static_cast<size_t>(b);
      ids[b].narrow(0, 0, num_new[at_b]).copy_(rows[at_b].narrow(0, before[at_b], num_new[at_b]));
    }
    const at::Tensor got =
        transformer->forward_cached(ids, cache, num_new).view({2, width, kHidden});
    for (int64_t b = 0; b < 2; ++b) {
      const auto at_b = static_cast<size_t>(b);
      EXPECT_LT(distance(got[b].narrow(0, 0, num_new[at_b]),
                         want[at_b].narrow(0, before[at_b], num_new[at_b])),
                1e-5)
          << "row " << b << " at " << before[at_b];
      EXPECT_EQ(cache.lengths[at_b], before[at_b] + num_new[at_b]);
    }
  }
}

// Jitter, dropout, capacity and random second experts: all that a second pass could do otherwise.
constexpr std::string_view kRestless = R"(
[model]
hidden_dropout = 0.2
embedding_dropout = 0.1
[moe]
layers = [0, 1]
shared_expert_intermediate_size = 6
shared_expert_gate = true
[moe.router]
capacity_factor = 0.75
z_loss_coeff = 0.01
[moe.switch]
jitter = 0.5
)";

Settings restless(const std::string& router) {
  Settings settings = tiny(router, std::string(kRestless));
  if (router == "hash") settings.moe.router.z_loss_coeff = 0;
  return settings;
}

TEST_P(DecoderWithRouter, HasTheSameGradientsWithRecomputation) {
  TransformerConfig config = restless(GetParam()).transformer();
  Transformer plain(config);
  config.recompute = true;
  Transformer again(config);
  TransformerInput input = packed_input(random_ids(2, 12, 6), {3, 5, 4});
  for (int64_t step = 0; step < 2; ++step) {  // gradients accumulate
    input.step = step;
    const at::Tensor want = loss_of(plain, input), got = loss_of(again, input);
    EXPECT_TRUE(at::equal(got, want));
    want.backward();
    got.backward();
  }
  const auto a = plain.named_parameters(), b = again.named_parameters();
  for (const auto& item : a) {
    const at::Tensor other = b[item.key()];
    ASSERT_EQ(other.grad().defined(), item.value().grad().defined()) << item.key();
    if (other.grad().defined()) {
      EXPECT_TRUE(at::equal(other.grad(), item.value().grad())) << item.key();
    }
  }
  const auto requested = [](const Transformer& d, size_t i) {
    return d.moe_layers()[i].second->router().requested_E;
  };
  for (size_t i = 0; i < 2; ++i) {
    ASSERT_EQ(requested(plain, i).defined(), requested(again, i).defined());
    if (requested(plain, i).defined()) {
      EXPECT_TRUE(at::equal(requested(plain, i), requested(again, i)))
          << "a replay counts no tokens";
    }
  }
}

TEST_P(DecoderWithRouter, TrainsARowTheSameWayInAnyMicroBatch) {
  if (GetParam() == "expert_choice") GTEST_SKIP() << "its experts choose among a micro-batch";
  if (GetParam() == "base_layer") GTEST_SKIP() << "its tokens are shared out as a whole";
  Settings settings = restless(GetParam());
  settings.moe.router.capacity_factor = 0;
  const auto transformer = make(settings);
  const at::NoGradGuard no_grad;
  TransformerInput both = input_of(random_ids(2, 12, 7));
  both.sequence_index_B = integers({4, 9});
  both.step = 3;
  TransformerInput second = input_of(both.input_ids_BS.narrow(0, 1, 1));
  second.sequence_index_B = integers({9});
  second.step = 3;
  const at::Tensor want = transformer->forward(both).hidden_TD.narrow(0, 12, 12);
  EXPECT_LT(distance(transformer->forward(second).hidden_TD, want), 1e-5);
  second.step = 4;
  EXPECT_GT(distance(transformer->forward(second).hidden_TD, want), 1e-2)
      << "another step draws anew";
}

TEST_P(DecoderWithRouter, HasTheGradientsOfTheFiniteDifferences) {
  Settings settings = tiny(GetParam(), "[moe.router]\naux_loss_coeff = 0.1");
  if (GetParam() == "switch") settings.read("[moe.switch]\njitter = 0");
  const auto transformer = make(settings);
  // Parameters alone: counters and tables of the routers keep their types.
  for (at::Tensor& parameter : transformer->parameters())
    parameter.set_data(parameter.to(at::kDouble));
  const TransformerInput input = packed_input(random_ids(2, 6, 8), {4, 2});
  test::expect_gradients(
      transformer->parameters(), [&] { return loss_of(*transformer, input); }, 1e-6, 12);
}

TEST_P(DecoderWithRouter, ComputesInBfloat16WithFloat32Weights) {
  TransformerConfig config = tiny(GetParam()).transformer();
  config.compute_type = at::kBFloat16;
  Transformer transformer(config);
  const at::Tensor ids = random_ids(2, 12, 9);
  const at::Tensor loss = loss_of(transformer, packed_input(ids, {3, 5, 4}));
  EXPECT_EQ(transformer.forward(input_of(ids)).hidden_TD.scalar_type(), at::kBFloat16);
  loss.backward();
  for (const auto& item : transformer.named_parameters()) {
    EXPECT_EQ(item.value().scalar_type(), at::kFloat) << item.key();
    ASSERT_TRUE(item.value().grad().defined()) << item.key();
    EXPECT_EQ(item.value().grad().scalar_type(), at::kFloat) << item.key();
    EXPECT_TRUE(item.value().grad().isfinite().all().item<bool>()) << item.key();
  }
  const auto exact = make(tiny(GetParam()));
  EXPECT_NEAR(loss.item<double>(), loss_of(*exact, packed_input(ids, {3, 5, 4})).item<double>(),
              0.5);
}

INSTANTIATE_TEST_SUITE_P(Model, DecoderWithRouter, testing::ValuesIn(moe::router_names()),
                         [](const auto& instance) { return instance.param; });

TEST(Transformer, StartsEachParameterByItsNameAlone) {
  const std::string plain = "[model]\nresidual_init_scaling = false\n";
  const auto base = make(tiny("top_k", plain));
  const auto expect_shared = [&base](const Settings& settings, size_t num_shared) {
    const auto other = make(settings);
    const auto a = base->named_parameters(), b = other->named_parameters();
    size_t shared = 0;
    for (const auto& item : a) {
      const at::Tensor* match = b.find(item.key());
      if (match == nullptr) continue;
      if (match->sizes() == item.value().sizes()) {
        ++shared;
        EXPECT_TRUE(at::equal(*match, item.value())) << item.key();
      } else if (item.key().find(".experts.") != std::string::npos) {
        EXPECT_TRUE(at::equal(match->narrow(0, 0, 4), item.value())) << item.key();
      }
    }
    EXPECT_EQ(shared, num_shared);
  };
  const size_t all = base->named_parameters().size();
  expect_shared(tiny("switch", plain), all);
  expect_shared(tiny("top_k", plain + "num_hidden_layers = 5"), all);
  expect_shared(tiny("top_k", plain + "[moe]\nnum_experts = 7"), all - 3);  // gate, up and down
  expect_shared(tiny("top_k", plain + "[moe]\nshared_expert_intermediate_size = 3"), all);
  expect_shared(tiny("top_k", plain + "tie_word_embeddings = true"), all - 1);
  expect_shared(tiny("top_k", plain + "[moe]\nnum_experts = 0"), all - 3);
}

TEST(Transformer, StartsFromAnotherPointWithAnotherSeed) {
  TransformerConfig config = tiny("top_k").transformer();
  const Transformer a(config);
  config.seed = 6;
  const Transformer b(config);
  for (const auto& item : a.named_parameters()) {
    const bool drawn = !item.key().ends_with("norm.weight");
    EXPECT_EQ(!at::equal(b.named_parameters()[item.key()], item.value()), drawn) << item.key();
  }
}

TEST(Transformer, StartsWithTheSpreadThatItsSettingsSay) {
  const auto transformer = make(tiny("top_k", R"(
[model]
hidden_size = 128
intermediate_size = 256
mlp_bias = true
attention_bias = true
initializer_range = 0.02
[moe]
intermediate_size = 128
shared_expert_intermediate_size = 128
)"));
  const double residual = 0.02 / 2;  // two layers: sqrt(2 * 2)
  for (const auto& item : transformer->named_parameters()) {
    const std::string& name = item.key();
    const double mean = item.value().mean().item<double>(), std = item.value().std().item<double>();
    if (name.ends_with("bias")) {
      EXPECT_EQ(item.value().abs().max().item<double>(), 0) << name;
    } else if (name.ends_with("norm.weight")) {
      EXPECT_EQ(mean, 1) << name;
      EXPECT_EQ(std, 0) << name;
    } else {
      const bool scaled = name.ends_with("o_proj.weight") || name.ends_with("down_proj");
      const double want = scaled ? residual : 0.02;
      EXPECT_NEAR(std, want, want * 0.12) << name;
      EXPECT_NEAR(mean, 0, want * 0.12) << name;
    }
  }
  const at::Tensor up = transformer->named_parameters()["layers.1.moe.experts.up_proj"];
  EXPECT_LT(std::abs(at::corrcoef(up.narrow(0, 0, 2).flatten(1))[0][1].item<double>()), 0.03)
      << "experts start apart";
}

TEST(Transformer, AddsPositionsAndTiesEmbeddings) {
  const auto transformer = make(tiny("top_k", R"(
[model]
position_embedding_type = "learned"
tie_word_embeddings = true
norm_type = "layernorm"
hidden_act = "gelu_new"
mlp_bias = true
attention_bias = true
attention_output_bias = true
qk_norm = "none"
)"));
  EXPECT_TRUE(
      transformer->output_weight().is_same(transformer->named_parameters()["embed_tokens"]));
  const at::Tensor ids = at::zeros({1, 6}, at::kLong);
  loss_of(*transformer, input_of(ids)).backward();
  const at::Tensor slope = transformer->named_parameters()["embed_positions"].grad();
  for (int64_t p = 0; p < 32; ++p) EXPECT_EQ(slope[p].abs().max().item<double>() > 0, p < 6) << p;
  const at::Tensor hidden = transformer->forward(input_of(ids)).hidden_TD;
  EXPECT_GT(distance(hidden[0], hidden[5]), 1e-3) << "equal tokens at other places differ";
}

TEST(Transformer, PlacesExpertsByFrequencyOrByList) {
  moe::MoeConfig config;
  const auto layers = [&config] {
    std::string pattern;
    for (int64_t i = 0; i < 6; ++i) pattern += is_moe_layer(config, i) ? 'x' : '.';
    return pattern;
  };
  EXPECT_EQ(layers(), "xxxxxx");
  config.layer_freq = 2;
  EXPECT_EQ(layers(), ".x.x.x");
  config.layers = {0, 4};
  EXPECT_EQ(layers(), "x...x.");
  config.num_experts = 0;
  EXPECT_EQ(layers(), "......");
}

TEST(Transformer, RefusesMoreTokensThanItsCacheHolds) {
  const auto transformer = make(tiny("top_k"));
  TransformerCache cache = transformer->make_cache(1, 4);
  transformer->forward_cached(random_ids(1, 3, 10), cache, {3});
  EXPECT_THROW(transformer->forward_cached(random_ids(1, 2, 10), cache, {2}), InternalError);
}

}  // namespace
}  // namespace locus::model
