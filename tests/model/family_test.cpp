#include "locus/model/family.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>

#include "locus/base/error.h"
#include "tests/model/model_helpers.h"
#include "tests/support/expect_error.h"

namespace locus::model {
namespace {

std::string describe(const TensorSlice& slice) {
  std::string text = slice.parameter;
  if (slice.expert >= 0) text += format("[{}]", slice.expert);
  if (slice.rows >= 0) text += format(" {}+{}", slice.row_begin, slice.rows);
  return text + (slice.transposed ? " T" : "");
}

// Stored name -> the part of our parameter.
std::map<std::string, std::string> names_of(const FamilyEntry& family, const Settings& settings,
                                            ExpertLayout layout = ExpertLayout::kEach) {
  std::map<std::string, std::string> names;
  for (const TensorSlice& slice : family.tensors(settings.model, settings.moe, layout)) {
    EXPECT_TRUE(names.emplace(slice.name, describe(slice)).second) << slice.name << " comes twice";
  }
  return names;
}

void expect_cover(const FamilyEntry& family, const Settings& settings, const std::string& what,
                  ExpertLayout layout = ExpertLayout::kEach) {
  names_of(family, settings, layout);
  const auto transformer = make(settings);
  std::map<std::string, at::Tensor> times;
  for (const auto& item : transformer->named_parameters()) {
    times[item.key()] = at::zeros(item.value().sizes(), at::kLong);
  }
  for (const TensorSlice& slice : family.tensors(settings.model, settings.moe, layout)) {
    ASSERT_TRUE(times.contains(slice.parameter))
        << what << ": " << slice.name << " is of " << slice.parameter;
    at::Tensor part = times[slice.parameter];
    if (slice.expert >= 0) part = part[slice.expert];
    EXPECT_TRUE(!slice.transposed || part.dim() == 2) << slice.name;
    if (slice.rows >= 0) part = part.narrow(0, slice.row_begin, slice.rows);
    part.add_(1);
  }
  for (const auto& [name, count] : times) {
    EXPECT_TRUE(count.eq(1).all().item<bool>())
        << what << ": " << name << " is not covered exactly once";
  }
}

TEST(Families, CoverEachParameterOfTheirPresetsOnce) {
  for (const Preset& preset : all_presets()) {
    const Settings settings = shrunk(preset);
    expect_cover(closest_family(settings.model, settings.moe), settings, std::string(preset.name));
    expect_cover(family_entries().back(), settings, "locus for " + std::string(preset.name));
    expect_cover(closest_family(settings.model, settings.moe), settings,
                 "fused " + std::string(preset.name), ExpertLayout::kFused);
  }
}

TEST(Families, CoverEachParameterOfOddShapesOnce) {
  const std::string odd = R"(norm_type = "layernorm"
position_embedding_type = "learned"
mlp_bias = true
attention_bias = true
attention_output_bias = true
qk_norm = "full"
[moe]
shared_expert_intermediate_size = 3
shared_expert_gate = true
)";
  for (const std::string& router : moe::router_names()) {
    for (const std::string& toml :
         {std::string(), "[model]\nhidden_act = \"gelu\"\n" + odd,
          "[model]\nhidden_act = \"swiglu\"\n" + odd,
          std::string("[moe]\nshared_expert_gate = true"), std::string("[moe]\nlayers = [0, 1]")}) {
      const Settings settings = tiny(router, toml);
      expect_cover(closest_family(settings.model, settings.moe), settings, router + " " + toml);
    }
  }
}

TEST(Families, AreClosestToTheirOwnPresets) {
  for (const FamilyEntry& family : family_entries()) {
    for (const Preset& preset : family.presets) {
      for (const Settings& settings : {settings_of(preset.toml), shrunk(preset)}) {
        EXPECT_EQ(closest_family(settings.model, settings.moe).name, family.name) << preset.name;
      }
    }
  }
}

TEST(Families, LeaveShapesThatNoneOfThemHoldsToTheLast) {
  for (const std::string toml :
       {"[model]\nmlp_bias = true", "[model]\nattention_bias = true",
        "[model]\nnorm_type = \"layernorm\"", "[model]\nposition_embedding_type = \"learned\"",
        "[moe]\nshared_expert_intermediate_size = 3\nshared_expert_gate = true",
        "[model]\nqk_norm = \"full\""}) {
    const Settings settings = tiny("top_k", toml);
    EXPECT_EQ(closest_family(settings.model, settings.moe).name, "locus") << toml;
  }
}

void expect_names(const char* preset, const std::map<std::string, std::string>& want) {
  const Settings settings = shrunk(find_preset(preset));
  const auto names = names_of(closest_family(settings.model, settings.moe), settings);
  for (const auto& [name, part] : want) {
    const auto found = names.find(name);
    ASSERT_NE(found, names.end()) << preset << " lacks " << name;
    EXPECT_EQ(found->second, part) << preset << " " << name;
  }
  // All of these layers, no more.
  for (const auto& [name, part] : names) {
    const bool listed_layer =
        name.find(".1.") != std::string::npos && name.find("experts.1.") == std::string::npos;
    if (listed_layer && name.find(".experts.") == std::string::npos) {
      EXPECT_TRUE(want.contains(name)) << preset << " has " << name;
    }
  }
}

// Sizes of shrunk(): hidden 24, 4 heads of 6 (Qwen3 and Llama: of 10), 2 key/value heads where
// grouped.
TEST(Families, NameGpt2AsHuggingFaceDoes) {
  const std::string h = "transformer.h.1.", l = "layers.1.";
  expect_names("gpt2", {{"transformer.wte.weight", "embed_tokens"},
                        {"transformer.wpe.weight", "embed_positions"},
                        {"transformer.ln_f.weight", "norm.weight"},
                        {"transformer.ln_f.bias", "norm.bias"},
                        {h + "ln_1.weight", l + "input_layernorm.weight"},
                        {h + "ln_1.bias", l + "input_layernorm.bias"},
                        {h + "attn.c_attn.weight", l + "self_attn.qkv_proj.weight T"},
                        {h + "attn.c_attn.bias", l + "self_attn.qkv_proj.bias"},
                        {h + "attn.c_proj.weight", l + "self_attn.o_proj.weight T"},
                        {h + "attn.c_proj.bias", l + "self_attn.o_proj.bias"},
                        {h + "ln_2.weight", l + "post_attention_layernorm.weight"},
                        {h + "ln_2.bias", l + "post_attention_layernorm.bias"},
                        {h + "mlp.c_fc.weight", l + "mlp.up_proj T"},
                        {h + "mlp.c_fc.bias", l + "mlp.up_proj_bias"},
                        {h + "mlp.c_proj.weight", l + "mlp.down_proj T"},
                        {h + "mlp.c_proj.bias", l + "mlp.down_proj_bias"}});
}

std::map<std::string, std::string> attention_names(int64_t q, int64_t kv) {
  const std::string hf = "model.layers.1.", l = "layers.1.";
  return {
      {"model.embed_tokens.weight", "embed_tokens"},
      {"model.norm.weight", "norm.weight"},
      {hf + "input_layernorm.weight", l + "input_layernorm.weight"},
      {hf + "self_attn.q_proj.weight", l + format("self_attn.qkv_proj.weight 0+{}", q)},
      {hf + "self_attn.k_proj.weight", l + format("self_attn.qkv_proj.weight {}+{}", q, kv)},
      {hf + "self_attn.v_proj.weight", l + format("self_attn.qkv_proj.weight {}+{}", q + kv, kv)},
      {hf + "self_attn.o_proj.weight", l + "self_attn.o_proj.weight"},
      {hf + "post_attention_layernorm.weight", l + "post_attention_layernorm.weight"}};
}

void expect_llama_names(const char* preset, std::map<std::string, std::string> want,
                        const std::vector<std::pair<std::string, std::string>>& layer) {
  for (const auto& [name, part] : layer) want["model.layers.1." + name] = "layers.1." + part;
  expect_names(preset, want);
}

const std::pair<std::string, std::string> kNorms[] = {
    {"self_attn.q_norm.weight", "self_attn.q_norm.weight"},
    {"self_attn.k_norm.weight", "self_attn.k_norm.weight"}};

TEST(Families, NameLlamaAsHuggingFaceDoes) {
  expect_llama_names("llama-3.2-1b", attention_names(40, 20),
                     {{"mlp.gate_proj.weight", "mlp.up_proj 0+14"},
                      {"mlp.up_proj.weight", "mlp.up_proj 14+14"},
                      {"mlp.down_proj.weight", "mlp.down_proj 0+24"}});
}

TEST(Families, NameMixtralAsHuggingFaceDoes) {
  expect_llama_names("mixtral-8x7b", attention_names(24, 12),
                     {{"block_sparse_moe.gate.weight", "moe.router.weight"},
                      {"block_sparse_moe.experts.8.w1.weight", "moe.experts.up_proj[8] 0+5"},
                      {"block_sparse_moe.experts.8.w3.weight", "moe.experts.up_proj[8] 5+5"},
                      {"block_sparse_moe.experts.8.w2.weight", "moe.experts.down_proj[8] 0+24"}});
}

TEST(Families, NameOlmoeAsHuggingFaceDoes) {
  expect_llama_names("olmoe-1b-7b", attention_names(24, 24),
                     {kNorms[0],
                      kNorms[1],
                      {"mlp.gate.weight", "moe.router.weight"},
                      {"mlp.experts.8.gate_proj.weight", "moe.experts.up_proj[8] 0+5"},
                      {"mlp.experts.8.up_proj.weight", "moe.experts.up_proj[8] 5+5"},
                      {"mlp.experts.8.down_proj.weight", "moe.experts.down_proj[8] 0+24"}});
}

TEST(Families, NameQwen3MoeAsHuggingFaceDoes) {
  expect_llama_names("qwen3-30b-a3b", attention_names(40, 20),
                     {kNorms[0],
                      kNorms[1],
                      {"mlp.gate.weight", "moe.router.weight"},
                      {"mlp.experts.0.gate_proj.weight", "moe.experts.up_proj[0] 0+5"},
                      {"mlp.experts.0.up_proj.weight", "moe.experts.up_proj[0] 5+5"},
                      {"mlp.experts.0.down_proj.weight", "moe.experts.down_proj[0] 0+24"}});
}

TEST(Families, NameDeepseekMoeAsHuggingFaceDoes) {
  auto names = attention_names(24, 24);
  names["model.layers.0.mlp.gate_proj.weight"] = "layers.0.mlp.up_proj 0+14";
  expect_llama_names("deepseek-moe-16b", names,
                     {{"mlp.gate.weight", "moe.router.weight"},
                      {"mlp.experts.8.gate_proj.weight", "moe.experts.up_proj[8] 0+5"},
                      {"mlp.shared_experts.gate_proj.weight", "moe.shared_expert.up_proj 0+11"},
                      {"mlp.shared_experts.up_proj.weight", "moe.shared_expert.up_proj 11+11"},
                      {"mlp.shared_experts.down_proj.weight", "moe.shared_expert.down_proj 0+24"}});
}

TEST(Families, AreTheFilesOfTheirFolder) {
  std::set<std::string> files, names;
  for (const auto& file :
       std::filesystem::directory_iterator(LOCUS_SOURCE_DIR "/locus/model/families")) {
    files.insert(file.path().stem().string());
  }
  for (const FamilyEntry& family : family_entries()) names.insert(std::string(family.name));
  EXPECT_EQ(files, names);
}

TEST(Presets, AreFoundByUniqueNames) {
  std::set<std::string_view> names;
  for (const Preset& preset : all_presets()) {
    EXPECT_TRUE(names.insert(preset.name).second) << preset.name;
    EXPECT_EQ(find_preset(preset.name).toml, preset.toml);
    EXPECT_FALSE(preset.summary.empty());
  }
  const std::string text = test::error_of<ConfigError>([] { find_preset("gpt3"); });
  EXPECT_NE(text.find("\"gpt3\""), std::string::npos) << text;
  for (const std::string_view name : names) EXPECT_NE(text.find(name), std::string::npos) << text;
}

TEST(Presets, AreAcceptedByTheirRouters) {
  for (const Preset& preset : all_presets()) {
    const Settings settings = settings_of(preset.toml);
    if (settings.moe.num_experts == 0) continue;
    const auto& entry = moe::find_router(settings.moe.router.type);
    EXPECT_TRUE(entry
                    .validate(settings.moe.router, settings.moe.num_experts,
                              settings.transformer().router_options)
                    .empty())
        << preset.name;
  }
}

}  // namespace
}  // namespace locus::model
