#include "locus/model/config_json.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "locus/base/error.h"
#include "locus/moe/router.h"
#include "tests/model/model_helpers.h"
#include "tests/support/expect_error.h"

namespace locus::model {
namespace {

using nlohmann::json;

Shape shape_of(const Settings& settings) {
  return {settings.model, settings.moe, settings.decoder().router_options};
}

std::string written(const Settings& settings) {
  return write_config_json(shape_of(settings), {.bos = 1, .eos = 2, .pad = {}}, "float32");
}

// Of the canonical forms: empty when both are the same model.
std::string difference(const Shape& left, const Shape& right) {
  std::string text;
  for (const ShapeDifference& one : differences(left, right)) {
    text += one.setting + " = " + one.value + " | " + one.other + "\n";
  }
  return text;
}

const json kOlmoe = {
    {"model_type", "olmoe"},          {"vocab_size", 50},         {"hidden_size", 32},
    {"num_hidden_layers", 2},         {"num_attention_heads", 4}, {"max_position_embeddings", 64},
    {"intermediate_size", 24},        {"num_experts", 4},         {"num_experts_per_tok", 2},
    {"num_key_value_heads", nullptr}, {"rope_theta", 5000},       {"torch_dtype", "bfloat16"},
    {"transformers_version", "4"},    {"use_cache", true}};

ConfigJson read(const json& config) { return parse_config_json(config.dump(), "config.json"); }

std::string refusal(const char* key, const json& value) {
  json config = kOlmoe;
  config[key] = value;
  const std::string text = test::error_of<DataError>([&] { read(config); });
  EXPECT_TRUE(text.starts_with("config.json: ")) << text;
  return text;
}

TEST(ConfigJson, GivesBackEveryPresetAndEveryRouter) {
  for (const Preset& preset : all_presets()) {
    const Settings settings = shrunk(preset);
    const ConfigJson read = parse_config_json(written(settings), "test");
    EXPECT_EQ(difference(shape_of(settings), read.shape), "") << preset.name;
    EXPECT_EQ(difference(read.shape, shape_of(settings)), "") << preset.name;
    EXPECT_EQ(read.family->name, closest_family(settings.model, settings.moe).name);
  }
  for (const std::string& router : moe::router_names()) {
    for (const std::string toml : {"", "[model]\nqk_norm = \"none\"\n[moe]\nlayers = []",
                                   "[model]\nnorm_type = \"layernorm\"\nhidden_act = \"gelu\""}) {
      const Settings settings = tiny(router, toml);
      const ConfigJson read = parse_config_json(written(settings), "test");
      EXPECT_EQ(difference(shape_of(settings), read.shape), "") << router << toml;
    }
  }
}

TEST(ConfigJson, SaysAllOfThePublicFamiliesPresetsInTheirOwnWords) {
  for (const FamilyEntry& family : family_entries()) {
    for (const Preset& preset : family.presets) {
      const json config = json::parse(written(shrunk(preset)));
      EXPECT_EQ(config["model_type"], family.model_type);
      EXPECT_EQ(config["architectures"][0], family.architecture);
      if (!family.in_transformers) continue;
      // Of training, or nothing.
      for (const json& line : config["locus"]["settings"]) {
        const std::string text = line;
        EXPECT_TRUE(is_of_training(text.substr(0, text.find(' ')))) << preset.name << ": " << text;
      }
      EXPECT_EQ(lost_in_transformers(shape_of(shrunk(preset))), "") << preset.name;
    }
  }
}

TEST(ConfigJson, NamesWhatTransformersWouldLose) {
  const auto lost = [](const std::string& router, const std::string& toml) {
    return lost_in_transformers(shape_of(tiny(router, toml)));
  };
  EXPECT_EQ(lost("top_k", ""), "");
  EXPECT_EQ(lost("top_k", "[moe.router]\nz_loss_coeff = 0.1\ncapacity_factor = 2.0"), "");
  EXPECT_NE(lost("switch", "").find("moe.router.type = \"switch\""), std::string::npos);
  EXPECT_NE(lost("top_k", "[moe.top_k]\nbias_update_rate = 0.001").find("bias_update_rate = 0.001"),
            std::string::npos);
  EXPECT_NE(lost("top_k", "[moe.top_k]\nscore_function = \"sigmoid\"").find("\"sigmoid\""),
            std::string::npos);
  EXPECT_NE(lost("top_k", "[model]\nnorm_type = \"layernorm\"").find("no class for this shape"),
            std::string::npos);
}

TEST(ConfigJson, TakesTransformersDefaultsForWhatIsNotThere) {
  const Shape shape = canonical(read(kOlmoe).shape);
  EXPECT_EQ(shape.model.num_key_value_heads, 4);
  EXPECT_EQ(shape.model.head_dim, 8);
  EXPECT_EQ(shape.model.rope_theta, 5000.0);
  EXPECT_EQ(shape.model.norm_eps, 1e-5);
  EXPECT_EQ(shape.model.qk_norm, "full");
  EXPECT_FALSE(shape.model.tie_word_embeddings);
  EXPECT_EQ(shape.moe.num_experts, 4);
  EXPECT_EQ(shape.moe.router.top_k, 2);
  const json gpt2 = {{"model_type", "gpt2"}, {"vocab_size", 50}, {"n_embd", 24},
                     {"n_layer", 2},         {"n_head", 4},      {"n_positions", 64},
                     {"n_inner", nullptr},   {"n_ctx", 64},      {"summary_type", "cls_index"}};
  const Shape small = read(gpt2).shape;
  EXPECT_EQ(small.model.intermediate_size, 96);
  EXPECT_EQ(small.model.hidden_act, "gelu_new");
  EXPECT_TRUE(small.model.tie_word_embeddings);
}

TEST(ConfigJson, ReadsRopeOfBothVersions) {
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    json config = kOlmoe;
    config[key] = {{"rope_type", "linear"}, {"factor", 4.0}};
    const Shape shape = read(config).shape;
    EXPECT_EQ(shape.model.rope_scaling, "linear");
    EXPECT_EQ(shape.model.rope_scaling_factor, 4.0);
    EXPECT_EQ(shape.model.rope_theta, 5000.0);
  }
  json config = kOlmoe;
  config["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 7.0}};
  EXPECT_EQ(read(config).shape.model.rope_theta, 7.0);
}

TEST(ConfigJson, WritesNtkScalingAsTheBaseThatItIs) {
  const Settings settings =
      tiny("top_k", "[model]\nrope_scaling = \"ntk\"\nrope_scaling_factor = 4.0");
  const json config = json::parse(written(settings));
  EXPECT_EQ(config["rope_parameters"]["rope_type"], "default");
  EXPECT_DOUBLE_EQ(config["rope_parameters"]["rope_theta"],
                   10000.0 * std::pow(4.0, 4.0 / 2.0));  // heads of 4
  EXPECT_EQ(lost_in_transformers(shape_of(settings)), "");
}

TEST(ConfigJson, RefusesFeaturesByName) {
  for (const auto& [key, value] : std::vector<std::pair<const char*, json>>{
           {"sliding_window", 4096},
           {"clip_qkv", 8.0},
           {"hidden_act", "relu"},
           {"quantization_config", {{"quant_method", "gptq"}}},
           {"attn_logit_softcapping", 50.0},
           {"layer_types", {"full_attention", "chunked_attention"}},
           {"kv_lora_rank", 512}}) {
    const std::string text = refusal(key, value);
    EXPECT_NE(text.find(key), std::string::npos) << text;
    EXPECT_NE(text.find("does not compute this"), std::string::npos) << text;
  }
  for (const char* type : {"dynamic", "yarn", "llama3", "longrope"}) {
    const std::string text = refusal("rope_parameters", {{"rope_type", type}, {"factor", 2.0}});
    EXPECT_NE(text.find(type), std::string::npos) << text;
  }
}

TEST(ConfigJson, RefusesValuesThatAreNone) {
  EXPECT_NE(refusal("hidden_size", -1).find("-1 is not a size"), std::string::npos);
  EXPECT_NE(refusal("hidden_size", 1e30).find("not a size"), std::string::npos);
  EXPECT_NE(refusal("hidden_size", "32").find("\"32\""), std::string::npos);
  EXPECT_NE(refusal("hidden_size", nullptr).find("has no \"hidden_size\""), std::string::npos);
  EXPECT_NE(refusal("rms_norm_eps", true).find("not a number"), std::string::npos);
  EXPECT_NE(refusal("num_hidden_layers", 2'000'000'000).find("too many"), std::string::npos);
  EXPECT_NE(refusal("rope_parameters", 3).find("not an object"), std::string::npos);
  EXPECT_NE(refusal("locus", {{"settings", {"model.hiden_size = 3"}}}).find("hiden_size"),
            std::string::npos);
}

TEST(ConfigJson, NamesTheNearestArchitecture) {
  const std::string near = refusal("model_type", "mixtrall");
  EXPECT_NE(near.find("the nearest is mixtral"), std::string::npos) << near;
  const std::string far = refusal("model_type", "bert");
  for (const FamilyEntry& family : family_entries()) {
    EXPECT_NE(far.find(family.model_type), std::string::npos) << far;
  }
}

TEST(ConfigJson, ChangesItsTypeAlone) {
  const std::string text = written(shrunk(find_preset("gpt2")));
  json before = json::parse(text);
  json after = json::parse(with_dtype(text, "float16"));
  EXPECT_EQ(after["dtype"], "float16");
  before.erase("dtype");
  before.erase("torch_dtype");
  after.erase("dtype");
  after.erase("torch_dtype");
  EXPECT_EQ(before, after);
}

}  // namespace
}  // namespace locus::model
