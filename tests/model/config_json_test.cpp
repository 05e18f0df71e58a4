#include "locus/model/config_json.h"

#include <gtest/gtest.h>

#include <cmath>
#include <initializer_list>
#include <nlohmann/json.hpp>
#include <random>
#include <set>

#include "locus/base/error.h"
#include "locus/base/toml.h"
#include "locus/model/llama_names.h"
#include "locus/moe/router.h"
#include "tests/model/model_helpers.h"
#include "tests/support/expect_error.h"

namespace locus::model {
namespace {

using nlohmann::json;

Shape shape_of(const Settings& settings) {
  return {settings.model, settings.moe, settings.transformer().router_options};
}

std::string written(const Settings& settings) {
  return write_config_json(shape_of(settings), {.bos = 1, .eos = 2, .pad = {}}, "float32");
}

OptionSet chosen_options(const Settings& settings) {
  for (const auto& [name, set] : settings.options) {
    if (name == settings.moe.router.type) return set;
  }
  return {};
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

// Draws a value for each setting that a shape of the preset may have otherwise.
class Draw {
 public:
  explicit Draw(uint32_t seed) : random_(seed) {}

  template <class T>
  void from(T& setting, std::initializer_list<T> values) {
    if (random_() % 2 == 0) setting = values.begin()[random_() % values.size()];
  }
  void options(const OptionSet& set) {
    for (const Field& field : set.fields()) {
      if (auto* const* flag = std::get_if<bool*>(&field.value)) from(**flag, {false, true});
      if (auto* const* real = std::get_if<double*>(&field.value)) from(**real, {0.001, 2.5, 1.0});
      if (auto* const* size = std::get_if<int64_t*>(&field.value)) from<int64_t>(**size, {1, 2, 4});
    }
    for (const Field& field : set.fields()) {
      if (field.path == "score_function") {
        from<std::string>(*std::get<std::string*>(field.value), {"softmax", "sigmoid"});
      } else if (field.path == "group_score") {
        from<std::string>(*std::get<std::string*>(field.value), {"top2", "max"});
      }
    }
  }
  void model(ModelConfig& m) {
    from<int64_t>(m.num_key_value_heads, {0, 1, 2, 4});
    from<int64_t>(m.head_dim, {0, 4, 10});
    from<bool>(m.attention_bias, {false, true});
    from<bool>(m.attention_output_bias, {false, true});
    from<bool>(m.tie_word_embeddings, {false, true});
    from<double>(m.norm_eps, {1e-6, 1e-5, 3.3e-7});
    from<double>(m.rope_theta, {1e4, 1e6, 123456.789});
    from<std::string>(m.rope_scaling, {"none", "linear", "ntk", "llama3"});
    from<double>(m.rope_scaling_factor, {1.0, 2.0, 32.0});
    from<double>(m.hidden_dropout, {0.0, 0.1});
    from<double>(m.embedding_dropout, {0.0, 0.1});
    from<double>(m.initializer_range, {0.02, 0.006});
    from<bool>(m.residual_init_scaling, {false, true});
    if (random_() % 4 == 0) from<std::string>(m.qk_norm, {"none", "head", "full"});
    if (random_() % 8 == 0) from<std::string>(m.hidden_act, {"swiglu", "gelu", "gelu_new"});
    if (random_() % 8 == 0) from<std::string>(m.norm_type, {"rmsnorm", "layernorm"});
    if (random_() % 8 == 0) from<std::string>(m.position_embedding_type, {"rope", "learned"});
    if (random_() % 8 == 0) from<bool>(m.mlp_bias, {false, true});
  }
  void moe(moe::MoeConfig& m) {
    if (random_() % 2 == 0)
      m.router.type = moe::router_names()[random_() % moe::router_names().size()];
    from<int64_t>(m.router.top_k, {1, 2, 3});
    from<double>(m.router.capacity_factor, {0.0, 1.25});
    from<double>(m.router.aux_loss_coeff, {0.0, 0.01, 0.001, 0.3});
    from<double>(m.router.z_loss_coeff, {0.0, 0.001});
    from<std::string>(m.router.aux_loss_scope, {"micro_batch", "sequence", "global_batch"});
    from<std::string>(m.router.drop_policy, {"probs", "position", "random"});
    if (random_() % 4 == 0) from<int64_t>(m.layer_freq, {1, 2});
    if (random_() % 4 == 0) from<std::vector<int64_t>>(m.layers, {{}, {1}, {0, 2}, {1, 2}});
    if (random_() % 4 == 0) from<int64_t>(m.shared_expert_intermediate_size, {0, 10, 7});
    if (m.shared_expert_intermediate_size > 0) from<bool>(m.shared_expert_gate, {false, true});
    if (m.shared_expert_intermediate_size > 0)
      from<std::string>(m.shared_expert_scope, {"all", "unclaimed"});
    if (m.shared_expert_intermediate_size == 0) {
      m.shared_expert_gate = false;
      m.shared_expert_scope = "all";
    }
  }

 private:
  std::mt19937 random_;
};

// What canonical forms may differ in from the settings: other words for the same model.
void expect_same_routing(const Shape& before, const Shape& after, const std::string& what) {
  const auto text = [](const Shape& shape, const std::string& path) -> std::string {
    for (const Field& field : Shape(shape).fields()) {
      if (field.path == path) return to_toml(field.value);
    }
    return "";
  };
  const auto is_plain = [&](const Shape& shape) {
    return text(shape, "moe.top_k.num_groups") == "1" &&
           text(shape, "moe.top_k.bias_update_rate") == "0.0";
  };
  for (const Field& field : Shape(before).fields()) {
    if (!field.path.starts_with("moe.") || field.path == "moe.layers" ||
        field.path == "moe.layer_freq" || field.path.ends_with("norm_topk_prob") ||
        (field.path.ends_with("score_before_topk") && is_plain(before))) {
      continue;
    }
    EXPECT_EQ(to_toml(field.value), text(after, field.path)) << field.path << "\n" << what;
  }
}

TEST(ConfigJson, GivesBackWhateverIsDrawnAroundEveryPreset) {
  std::set<std::string_view> families;
  for (const Preset& preset : all_presets()) {
    for (uint32_t seed = 0; seed < 150; ++seed) {
      Settings settings = shrunk(preset);
      Draw draw(seed);
      draw.model(settings.model);
      if (settings.moe.num_experts > 0) draw.moe(settings.moe);
      for (const auto& [name, set] : settings.options) draw.options(set);
      const Shape shape{settings.model, settings.moe, chosen_options(settings)};
      const std::string text = write_config_json(shape, {.bos = 1, .eos = 2, .pad = {}}, "float32");
      const ConfigJson read = parse_config_json(text, "test");
      const std::string what = std::string(preset.name) + ", seed " + std::to_string(seed);
      ASSERT_EQ(difference(shape, read.shape), "") << what << text;
      ASSERT_EQ(difference(read.shape, shape), "") << what << text;
      if (has_moe_layer(settings.model, settings.moe)) expect_same_routing(shape, read.shape, what);
      // Once more, from what was read.
      ASSERT_EQ(write_config_json(read.shape, {.bos = 1, .eos = 2, .pad = {}}, "float32"), text);
      families.insert(read.family->name);
    }
  }
  EXPECT_EQ(families.size(), family_entries().size());
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

TEST(ConfigJson, GivesBackLlama3Scaling) {
  const Settings settings = tiny("top_k", R"(
[model]
rope_scaling = "llama3"
rope_scaling_factor = 32.0
rope_low_freq_factor = 2.0
rope_high_freq_factor = 8.0
rope_original_max_position_embeddings = 16)");
  const json config = json::parse(written(settings));
  EXPECT_EQ(config["rope_parameters"]["rope_type"], "llama3");
  EXPECT_EQ(config["rope_parameters"]["original_max_position_embeddings"], 16);
  EXPECT_EQ(difference(shape_of(settings), read(config).shape), "");
  EXPECT_EQ(lost_in_transformers(shape_of(settings)), "");
}

TEST(ConfigJson, RefusesRopeThatIsSaidInTwoWays) {
  json config = kOlmoe;
  config["rope_parameters"] = {{"rope_type", "linear"}, {"factor", 4.0}, {"rope_theta", 5000}};
  config["rope_scaling"] = {{"type", "linear"}, {"factor", 4}};
  EXPECT_EQ(read(config).shape.model.rope_scaling_factor, 4.0);
  for (const json& other :
       {json{{"type", "linear"}, {"factor", 2.0}}, json{{"type", "default"}, {"factor", 4.0}},
        json{{"type", "linear"}, {"factor", 4.0}, {"rope_theta", 1}}}) {
    config["rope_scaling"] = other;
    const std::string text = test::error_of<DataError>([&] { read(config); });
    EXPECT_NE(text.find("\"rope_parameters\""), std::string::npos) << text;
    EXPECT_NE(text.find("\"rope_scaling\""), std::string::npos) << text;
  }
  for (const double factor : {0.0, -2.0}) {
    EXPECT_NE(refusal("rope_scaling", {{"type", "linear"}, {"factor", factor}})
                  .find("\"rope_scaling.factor\""),
              std::string::npos);
  }
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
  for (const char* type : {"dynamic", "yarn", "longrope"}) {
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
  for (const json& id : {json(50), json(-1), json("2"), json{2, 50}, json(2.0)}) {
    EXPECT_NE(refusal("eos_token_id", id).find("\"eos_token_id\""), std::string::npos);
  }
  EXPECT_NE(refusal("locus", "text").find("\"locus\" = \"text\""), std::string::npos);
  EXPECT_NE(refusal("locus", {{"settings", 3}}).find("\"locus.settings\""), std::string::npos);
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
