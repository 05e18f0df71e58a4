// What the model tests share: tiny transformers, presets shrunk to the size of a test.
#pragma once

#include <ATen/ATen.h>

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "locus/base/toml.h"
#include "locus/model/family.h"
#include "locus/model/transformer.h"

namespace locus::model {

// [model], [moe] and the options of each router, as a configuration file has them.
struct Settings {
  ModelConfig model;
  moe::MoeConfig moe;
  std::vector<std::pair<std::string, OptionSet>> options;

  Settings() {
    for (const moe::RouterEntry& entry : moe::router_entries()) {
      options.emplace_back(entry.name, entry.options());
    }
  }

  void read(std::string_view toml) {
    Fields fields = collect_fields(model, "model.");
    for (const Field& field : collect_fields(moe, "moe.")) fields.push_back(field);
    for (const auto& [name, set] : options) {
      for (Field field : set.fields()) {
        field.path = "moe." + name + "." + field.path;
        fields.push_back(field);
      }
    }
    read_toml("test", toml, {}, fields);
  }

  TransformerConfig transformer() const {
    TransformerConfig config;
    config.model = model;
    config.moe = moe;
    config.seed = 5;
    for (const auto& [name, set] : options) {
      if (name == moe.router.type) config.router_options = set;
    }
    return config;
  }
};

inline Settings settings_of(std::string_view toml) {
  Settings settings;
  settings.read(toml);
  return settings;
}

inline std::vector<Preset> all_presets() {
  std::vector<Preset> presets;
  for (const FamilyEntry& family : family_entries()) {
    presets.insert(presets.end(), family.presets.begin(), family.presets.end());
  }
  return presets;
}

// The preset at a size that a test can hold; its kind, layer pattern and options stay.
inline Settings shrunk(const Preset& preset) {
  Settings settings = settings_of(preset.toml);
  ModelConfig& model = settings.model;
  model.vocab_size = 23;
  model.hidden_size = 24;
  model.num_hidden_layers = 3;
  if (model.num_key_value_heads > 0) model.num_key_value_heads = 2;
  model.num_attention_heads = 4;
  if (model.head_dim > 0) model.head_dim = 10;
  model.intermediate_size = 14;
  model.max_position_embeddings = 32;
  if (settings.moe.num_experts > 0) settings.moe.num_experts = 9;
  settings.moe.intermediate_size = 5;
  if (settings.moe.shared_expert_intermediate_size > 0)
    settings.moe.shared_expert_intermediate_size = 11;
  return settings;
}

// Grouped-query attention with q/k norms, a dense layer below one with experts.
constexpr std::string_view kTinyModel = R"(
[model]
vocab_size = 19
hidden_size = 16
num_hidden_layers = 2
num_attention_heads = 4
num_key_value_heads = 2
qk_norm = "head"
intermediate_size = 12
max_position_embeddings = 32
initializer_range = 0.3
[moe]
num_experts = 4
intermediate_size = 10
layers = [1]
)";

inline Settings tiny(const std::string& router, const std::string& toml = "") {
  Settings settings = settings_of(kTinyModel);
  settings.moe.router.type = router;
  settings.read(toml);
  return settings;
}

inline std::shared_ptr<Transformer> make(const Settings& settings) {
  return std::make_shared<Transformer>(settings.transformer());
}

inline int64_t num_parameters(const Transformer& transformer) {
  int64_t total = 0;
  for (const at::Tensor& parameter : transformer.parameters()) total += parameter.numel();
  return total;
}

}  // namespace locus::model
