#include "locus/model/size.h"

#include "locus/moe/router.h"

#include <gtest/gtest.h>

#include "tests/model/model_helpers.h"

namespace locus::model {
namespace {

ParameterCount count_of(const Settings& settings) {
  return count_parameters(settings.model, settings.moe);
}

void expect_size_of_decoder(const Settings& settings, const std::string& what) {
  EXPECT_EQ(count_of(settings).total(), num_parameters(*make(settings))) << what;
}

TEST(Size, OfEachPresetIsThatOfItsDecoder) {
  for (const Preset& preset : all_presets())
    expect_size_of_decoder(shrunk(preset), std::string(preset.name));
}

TEST(Size, OfEachRouterAndVariantIsThatOfItsDecoder) {
  for (const std::string& router : moe::router_names())
    expect_size_of_decoder(tiny(router), router);
  for (const std::string toml : {
           "[model]\nqk_norm = \"full\"",
           "[model]\nqk_norm = \"full\"\nnorm_type = \"layernorm\"",
           "[model]\nqk_norm = \"head\"\nnorm_type = \"layernorm\"",
           "[model]\nhidden_act = \"gelu\"\nmlp_bias = true\nattention_bias = true",
           "[model]\nmlp_bias = true\nattention_output_bias = true\nhead_dim = 6",
           "[model]\nposition_embedding_type = \"learned\"\ntie_word_embeddings = true",
           "[moe]\nlayers = [0, 1]\nshared_expert_intermediate_size = 3\nshared_expert_gate = true",
           "[model]\nmlp_bias = true\n[moe]\nshared_expert_intermediate_size = 3",
           "[model]\nnum_hidden_layers = 5\n[moe]\nlayers = []\nlayer_freq = 2",
           "[moe]\nshared_expert_gate = true",
           "[moe]\nnum_experts = 0",
       }) {
    expect_size_of_decoder(tiny("top_k", toml), toml);
  }
}

TEST(Size, OfPublicModelsIsThePublishedOne) {
  // Total and active parameters, in millions; to the precision of the publications.
  struct Known {
    const char* preset;
    double total, total_precision, active, active_precision;
  };
  const Known all[] = {
      {"gpt2", 124.44, 0.01, 124.44, 0.01},  {"llama-3.2-1b", 1235.8, 0.1, 1235.8, 0.1},
      {"mixtral-8x7b", 46703, 1, 12880, 15}, {"olmoe-1b-7b", 6919, 1, 1280, 20},
      {"qwen3-30b-a3b", 30532, 1, 3350, 50}, {"deepseek-moe-16b", 16376, 1, 2830, 30},
      {"olmoe-tiny", 17.8, 0.1, 8.4, 0.1},
  };
  EXPECT_EQ(all_presets().size(), std::size(all)) << "a new preset belongs into this list";
  for (const Known& known : all) {
    const ParameterCount count = count_of(settings_of(find_preset(known.preset).toml));
    EXPECT_NEAR(static_cast<double>(count.total()) / 1e6, known.total, known.total_precision)
        << known.preset;
    EXPECT_NEAR(static_cast<double>(count.active()) / 1e6, known.active, known.active_precision)
        << known.preset;
  }
}

TEST(Size, FollowsTheExpertsPerTokenOfTheRouter) {
  moe::MoeConfig moe;
  moe::RouterConfig& router = moe.router;
  router.top_k = 3;
  const auto of = [&moe](const char* type) {
    moe.router.type = type;
    return moe::find_router(type).experts_per_token(moe);
  };
  EXPECT_EQ(of("top_k"), 3);
  EXPECT_EQ(of("hash"), 3);
  EXPECT_EQ(of("switch"), 1);
  EXPECT_EQ(of("gshard"), 2);
  EXPECT_EQ(of("expert_choice"), 2);
  router.capacity_factor = 1.5;
  EXPECT_EQ(of("expert_choice"), 1.5);
}

TEST(Flops, AreTwoPerActiveMatrixElementAndAttentionScore) {
  // One layer, one head: 16 x 48 qkv, 16 x 16 out, gate, two of four experts, logits.
  const Settings settings = tiny("top_k", R"(
[model]
num_hidden_layers = 1
num_attention_heads = 1
num_key_value_heads = 1
qk_norm = "none"
[moe]
layers = [0]
)");
  const double matrices = 16 * 48 + 16 * 16 + 4 * 16 + 2 * 3 * 16 * 10 + 19 * 16;
  // Each token sees S / 2 tokens on average: 16 multiply-adds for the score, 16 for the mix.
  const double attention = 2 * (16 + 16) * 8 / 2;
  EXPECT_DOUBLE_EQ(forward_flops_per_token(settings.model, settings.moe, 8),
                   2 * matrices + attention);
}

TEST(Memory, HoldsWeightsGradientsAndTwoMoments) {
  const Settings settings = tiny("top_k");
  const double parameters = static_cast<double>(count_of(settings).total());
  const TrainingMemory plain = estimate_memory(settings.model, settings.moe, 4, 32, 4, false);
  EXPECT_EQ(plain.weights + plain.gradients + plain.optimizer, 16 * parameters);
  const TrainingMemory again = estimate_memory(settings.model, settings.moe, 4, 32, 4, true);
  EXPECT_LT(again.activations, plain.activations);
  EXPECT_EQ(again.weights, plain.weights);
  const TrainingMemory low = estimate_memory(settings.model, settings.moe, 4, 32, 2, false);
  const double mask_bytes = 4 * 32 * 32;  // booleans, whatever the type that computes
  EXPECT_EQ((low.activations - mask_bytes) * 2, plain.activations - mask_bytes);
}

}  // namespace
}  // namespace locus::model
