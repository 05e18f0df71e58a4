#include "locus/model/config_json.h"

#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "locus/base/error.h"
#include "locus/base/file.h"
#include "locus/base/log.h"
#include "locus/base/toml.h"
#include "locus/base/version.h"
#include "locus/io/json_check.h"
#include "locus/io/safetensors_folder.h"
#include "locus/model/layer_config.h"
#include "locus/moe/router.h"

namespace locus::model {
namespace {

using nlohmann::json;
using nlohmann::ordered_json;

constexpr int64_t kLargestSize = std::numeric_limits<int32_t>::max();
constexpr int64_t kMostLayers = 100'000;  // walking them must not take minutes

// Keys of every config.json that do not say what a model computes.
constexpr std::array kHarmless = {"architectures",
                                  "model_type",
                                  "dtype",
                                  "torch_dtype",
                                  "transformers_version",
                                  "use_cache",
                                  "bos_token_id",
                                  "eos_token_id",
                                  "pad_token_id",
                                  "unk_token_id",
                                  "sep_token_id",
                                  "output_router_logits",
                                  "output_attentions",
                                  "output_hidden_states",
                                  "return_dict",
                                  "locus",
                                  "id2label",
                                  "label2id",
                                  "problem_type",
                                  "task_specific_params",
                                  "chunk_size_feed_forward",
                                  "is_decoder",
                                  "auto_map"};

struct Feature {
  std::string_view key, allowed;  // JSON: where the key means nothing
};
// What some model of these architectures has, and Locus not.
constexpr std::array kFeatures = {Feature{"sliding_window", "null"},
                                  Feature{"use_sliding_window", "false"},
                                  Feature{"quantization_config", "null"},
                                  Feature{"partial_rotary_factor", "1.0"},
                                  Feature{"attn_logit_softcapping", "null"},
                                  Feature{"final_logit_softcapping", "null"},
                                  Feature{"logit_scale", "1.0"},
                                  Feature{"clip_qkv", "null"},
                                  Feature{"kv_lora_rank", "null"},
                                  Feature{"num_nextn_predict_layers", "0"},
                                  Feature{"is_encoder_decoder", "false"}};

std::string brief(const json& value) {
  constexpr size_t kLongest = 80;
  const std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  return text.size() <= kLongest ? text : text.substr(0, kLongest) + "...";
}

class Writer final : public ConfigKeys {
 public:
  bool is_reading() const override { return false; }
  void value(std::string_view key, const FieldPointer& setting, std::string_view) override {
    std::visit([&](const auto* pointer) { out[std::string(key)] = *pointer; }, setting);
  }
  void only(std::string_view key, std::string_view text) override {
    out[std::string(key)] = ordered_json::parse(text);
  }
  void also_named(std::string_view, std::string_view) override {}
  void unused(std::string_view) override {}
  void attention_dropout(std::string_view key, double) override { out[std::string(key)] = 0.0; }
  void rope(ModelConfig& model, double) override {
    const bool scaled = model.rope_scaling != "none";
    ordered_json rope = {{"rope_type", scaled ? model.rope_scaling : "default"},
                         {"rope_theta", model.rope_theta}};
    if (scaled) rope["factor"] = model.rope_scaling_factor;
    if (model.rope_scaling == "llama3") {
      rope["low_freq_factor"] = model.rope_low_freq_factor;
      rope["high_freq_factor"] = model.rope_high_freq_factor;
      rope["original_max_position_embeddings"] = model.rope_original_max_position_embeddings;
    }
    out["rope_parameters"] = rope;
    // For readers of the time before transformers 5.
    out["rope_theta"] = model.rope_theta;
    if (scaled) out["rope_scaling"] = rope;
  }

  ordered_json out = ordered_json::object();
};

// Reads what `source` says of its keys, and remembers which ones it saw.
class Reader final : public ConfigKeys {
 public:
  Reader(const json& config, std::string source) : config_(config), source_(std::move(source)) {}

  bool is_reading() const override { return true; }
  void value(std::string_view key, const FieldPointer& setting, std::string_view absent) override {
    const json* found = find(key);
    if (found == nullptr && absent.empty()) throw DataError("{}: has no \"{}\"", source_, key);
    const json value = found ? *found : json::parse(absent);
    std::visit([&](auto* target) { read(key, value, *target); }, setting);
  }
  void only(std::string_view key, std::string_view text) override {
    const json* found = find(key);
    if (found != nullptr && *found != json::parse(text)) refuse(key, *found, text);
  }
  void also_named(std::string_view key, std::string_view other) override {
    other_names_[std::string(key)] = other;
    seen_.insert(std::string(other));
  }
  void unused(std::string_view key) override { find(key); }
  void attention_dropout(std::string_view key, double absent) override {
    double dropout = 0.0;
    value(key, &dropout, absent > 0 ? "0.1" : "0.0");
    if (dropout != 0.0) {
      log::warning("{}: \"{}\" = {}: Locus has no dropout inside attention and trains without it",
                   source_, key, dropout);
    }
  }
  void rope(ModelConfig& model, double default_theta) override;

  // Everything that nobody asked for: features are refused, the rest is named.
  void check_rest() const;

 private:
  const json* find(std::string_view key) {
    seen_.insert(std::string(key));
    auto found = config_.find(key);
    const auto other = other_names_.find(key);
    if (found == config_.end() && other != other_names_.end()) found = config_.find(other->second);
    return found == config_.end() || found->is_null() ? nullptr : &*found;
  }

  [[noreturn]] void refuse(std::string_view key, const json& value,
                           std::string_view allowed) const {
    throw DataError("{}: \"{}\" = {}: Locus does not compute this, only {}", source_, key,
                    brief(value), allowed);
  }
  [[noreturn]] void wrong_type(std::string_view key, const json& value,
                               std::string_view expected) const {
    throw DataError("{}: \"{}\" = {} is not {}", source_, key, brief(value), expected);
  }

  void read(std::string_view key, const json& value, bool& target) const {
    if (!value.is_boolean()) wrong_type(key, value, "true or false");
    target = value.get<bool>();
  }
  void read(std::string_view key, const json& value, int64_t& target) const {
    if (!value.is_number_integer() || value < 0 || value > kLargestSize) {
      wrong_type(key, value, "a size");
    }
    target = value.get<int64_t>();
  }
  void read(std::string_view key, const json& value, double& target) const {
    if (!value.is_number()) wrong_type(key, value, "a number");
    target = value.get<double>();
  }
  void read(std::string_view key, const json& value, std::string& target) const {
    if (!value.is_string()) wrong_type(key, value, "text");
    target = value.get<std::string>();
  }
  template <class T>
  void read(std::string_view key, const json& value, std::vector<T>& target) const {
    if (!value.is_array()) wrong_type(key, value, "a list");
    target.clear();
    for (const json& one : value) read(key, one, target.emplace_back());
  }

  // Of both versions of transformers; nullptr: neither is there.
  const json* rope_object();

  const json& config_;
  const std::string source_;
  std::set<std::string> seen_;
  std::map<std::string, std::string, std::less<>> other_names_;
};

// The type under one name, and said: what two objects are compared by.
json settled_rope(json rope) {
  if (!rope.contains("rope_type")) rope["rope_type"] = rope.value("type", json("default"));
  rope.erase("type");
  return rope;
}

// A base of the frequencies that only one of both names is no contradiction.
bool agree(const json& left, const json& right) {
  json a = settled_rope(left), b = settled_rope(right);
  if (!a.contains("rope_theta") || !b.contains("rope_theta")) {
    a.erase("rope_theta");
    b.erase("rope_theta");
  }
  return a == b;
}

const json* Reader::rope_object() {
  const json* parameters = find("rope_parameters");
  const json* scaling = find("rope_scaling");  // its name before transformers 5
  if (parameters && !parameters->is_object()) {
    wrong_type("rope_parameters", *parameters, "an object");
  }
  if (scaling && !scaling->is_object()) wrong_type("rope_scaling", *scaling, "an object");
  if (parameters && scaling && !agree(*parameters, *scaling)) {
    throw DataError(
        "{}: \"rope_parameters\" = {} and \"rope_scaling\" = {} contradict each other; leave one "
        "out",
        source_, brief(*parameters), brief(*scaling));
  }
  return parameters ? parameters : scaling;
}

void Reader::rope(ModelConfig& model, double default_theta) {
  model.rope_theta = default_theta;
  if (const json* theta = find("rope_theta")) read("rope_theta", *theta, model.rope_theta);
  const json* rope = rope_object();
  if (rope == nullptr) return;
  const std::string object = find("rope_parameters") == rope ? "rope_parameters." : "rope_scaling.";
  std::string type = "default";
  if (rope->contains("type")) read(object + "type", rope->at("type"), type);
  if (rope->contains("rope_type")) read(object + "rope_type", rope->at("rope_type"), type);
  for (const auto& [key, value] : rope->items()) {
    const std::string name = object + key;
    if (key == "rope_theta") {
      if (!value.is_null()) read(name, value, model.rope_theta);
    } else if (key == "factor") {
      read(name, value, model.rope_scaling_factor);
      if (!(model.rope_scaling_factor > 0)) wrong_type(name, value, "above 0");
    } else if (key == "low_freq_factor") {
      read(name, value, model.rope_low_freq_factor);
    } else if (key == "high_freq_factor") {
      read(name, value, model.rope_high_freq_factor);
    } else if (key == "original_max_position_embeddings") {
      read(name, value, model.rope_original_max_position_embeddings);
    } else if (key == "partial_rotary_factor") {
      if (value != 1.0) refuse(name, value, "1.0");
    }
  }
  if (type != "default" && type != "linear" && type != "llama3") {
    throw DataError(
        "{}: RoPE scaling \"{}\": Locus does not compute this, only default, linear and llama3",
        source_, type);
  }
  model.rope_scaling = type == "default" ? "none" : type;
}

void Reader::check_rest() const {
  std::string unknown;
  for (const auto& [key, value] : config_.items()) {
    if (seen_.contains(key) || key.starts_with("_")) continue;
    const auto feature = std::find_if(kFeatures.begin(), kFeatures.end(),
                                      [&key](const Feature& one) { return one.key == key; });
    if (feature != kFeatures.end()) {
      const bool means_nothing = value.is_null() || value == json::parse(feature->allowed);
      if (!means_nothing) refuse(key, value, feature->allowed);
      continue;
    }
    if (key == "layer_types") {
      for (const json& type : value) {
        if (type != "full_attention") refuse(key, type, "full_attention");
      }
      continue;
    }
    const bool harmless = std::find(kHarmless.begin(), kHarmless.end(), key) != kHarmless.end();
    if (harmless || value.is_null() || value == false || value.empty()) continue;
    unknown += (unknown.empty() ? "" : ", ") + io::shown(key) + " = " + brief(value);
  }
  if (!unknown.empty()) {
    log::warning("{}: Locus does not know these keys and passes them over: {}", source_, unknown);
  }
}

const FamilyEntry& family_of(const json& config, const std::string& source) {
  const auto type = config.find("model_type");
  if (type == config.end() || !type->is_string()) {
    throw DataError("{}: has no \"model_type\": is it a model's config.json?", source);
  }
  std::vector<std::string> known;
  std::string list;
  for (const FamilyEntry& family : family_entries()) {
    if (family.model_type == type->get<std::string>()) return family;
    known.emplace_back(family.model_type);
    list += (list.empty() ? "" : ", ") + known.back();
  }
  const std::string near = nearest(type->get<std::string>(), known);
  throw DataError("{}: the architecture {} is not known{}; known: {}", source, brief(*type),
                  near.empty() ? "" : " (the nearest is " + near + ")", list);
}

std::vector<std::string> own_lines(const json& own, const std::string& source) {
  if (!own.is_object()) {
    throw DataError("{}: \"locus\" = {} is not an object", source, brief(own));
  }
  std::vector<std::string> lines;
  const auto settings = own.find("settings");
  if (settings == own.end()) return lines;
  if (!settings->is_array()) {
    throw DataError("{}: \"locus.settings\" = {} is not a list", source, brief(*settings));
  }
  for (const json& line : *settings) {
    if (!line.is_string()) throw DataError("{}: \"locus\": a setting is not text", source);
    lines.push_back(line.get<std::string>());
  }
  return lines;
}

// The settings under "locus", on top of what the keys say in canonical form: that is what they were
// compared with when they were written.
void read_own_settings(const json& own, const std::string& source, Shape& shape) {
  const std::vector<std::string> lines = own_lines(own, source);
  shape = canonical(shape);
  try {
    // The router first: its options are settings only where it is the chosen one.
    std::vector<std::string> rest;
    for (const std::string& line : lines) {
      if (!line.starts_with("moe.router.type")) {
        rest.push_back(line);
        continue;
      }
      read_toml(source, "", {line}, shape.fields());
      set_router(shape, shape.moe.router.type);
    }
    read_toml(source, "", rest, shape.fields());
  } catch (const ConfigError& error) {
    throw DataError("{}: \"locus\": {}", source, error.what());
  }
}

// One id or several, each of the vocabulary.
void check_end_tokens(const json& config, int64_t vocab_size, const std::string& source) {
  const auto found = config.find("eos_token_id");
  if (found == config.end() || found->is_null()) return;
  const json ids = found->is_array() ? *found : json::array({*found});
  for (const json& id : ids) {
    if (id.is_number_integer() && id >= 0 && id < vocab_size) continue;
    throw DataError("{}: \"eos_token_id\" = {} is not an id of the vocabulary, 0 to {}", source,
                    brief(*found), vocab_size - 1);
  }
}

Shape read_keys(const FamilyEntry& family, const json& config, const std::string& source) {
  Reader reader(config, source);
  Shape shape = default_shape();
  const auto layers = config.find(family.name == "gpt2" ? "n_layer" : "num_hidden_layers");
  if (layers != config.end() && layers->is_number() && *layers > kMostLayers) {
    throw DataError("{}: {} layers are too many", source, brief(*layers));
  }
  family.keys(reader, shape);
  reader.check_rest();
  check_end_tokens(config, shape.model.vocab_size, source);
  return shape;
}

ordered_json id_json(const std::optional<int64_t>& id) {
  return id ? ordered_json(*id) : ordered_json(nullptr);
}

// What the family's keys say of the shape.
ordered_json write_keys(const FamilyEntry& family, const Shape& shape) {
  Writer writer;
  Shape words = canonical(shape);
  family.keys(writer, words);
  return writer.out;
}

std::vector<ShapeDifference> unsaid(const FamilyEntry& family, const Shape& shape) {
  return differences(shape,
                     read_keys(family, json(write_keys(family, shape)), std::string(family.name)));
}

// A class by its task, as transformers names them.
std::string_view architecture_of(const FamilyEntry& family, const ModelConfig& model) {
  if (model.is_decoder()) return family.architecture;
  return model.is_encoder() ? "LocusForMaskedLM" : "LocusForConditionalGeneration";
}

}  // namespace

std::string write_config_json(const Shape& shape, const TokenIds& ids, const std::string& dtype) {
  const FamilyEntry& family = closest_family(shape.model, shape.moe);
  ordered_json out = {{"architectures", {architecture_of(family, shape.model)}},
                      {"model_type", family.model_type}};
  out.update(write_keys(family, shape));
  out["bos_token_id"] = id_json(ids.bos);
  out["eos_token_id"] = id_json(ids.eos);
  out["pad_token_id"] = id_json(ids.pad);
  out["dtype"] = dtype;
  out["torch_dtype"] = dtype;  // its name before transformers 5
  out["use_cache"] = true;
  ordered_json settings = ordered_json::array();
  for (const ShapeDifference& one : unsaid(family, shape)) {
    settings.push_back(one.setting + " = " + one.value);
  }
  out["locus"] = {{"version", kVersion}, {"settings", settings}};
  return out.dump(2) + "\n";
}

std::string write_generation_config(const TokenIds& ids) {
  ordered_json out = {{"_from_model_config", true}};
  if (ids.bos) out["bos_token_id"] = *ids.bos;
  if (ids.eos) out["eos_token_id"] = *ids.eos;
  if (ids.pad) out["pad_token_id"] = *ids.pad;
  return out.dump(2) + "\n";
}

ConfigJson parse_config_json(const std::string& text, const std::string& source) {
  io::check_json_object(text, source + ": the text");
  const json config = json::parse(text);
  ConfigJson out;
  out.text = text;
  out.family = &family_of(config, source);
  out.shape = read_keys(*out.family, config, source);
  if (const auto own = config.find("locus"); own != config.end()) {
    read_own_settings(*own, source, out.shape);
  }
  const ModelConfig& model = out.shape.model;
  if (model.num_encoder_layers < 0 || model.num_encoder_layers > model.num_hidden_layers) {
    throw DataError("{}: \"locus\": model.num_encoder_layers = {} of {} layers", source,
                    model.num_encoder_layers, model.num_hidden_layers);
  }
  const auto problems = layer_problems(model, out.shape.moe, out.shape.router_options);
  if (!problems.empty()) throw DataError("{}: \"locus\": {}", source, problems.front());
  return out;
}

ConfigJson read_config_json(const std::filesystem::path& folder) {
  const fs::path path = io::folder_member(folder, "config.json", folder);
  return parse_config_json(read_file(path), path.string());
}

std::string with_dtype(const std::string& config_json, const std::string& dtype) {
  ordered_json config = ordered_json::parse(config_json);
  config["dtype"] = dtype;
  config["torch_dtype"] = dtype;
  return config.dump(2) + "\n";
}

std::string lost_in_transformers(const Shape& shape) {
  const FamilyEntry& family = closest_family(shape.model, shape.moe);
  if (!family.in_transformers) {
    return format("transformers has no class for this shape ({}, model_type \"{}\")",
                  family.summary, family.model_type);
  }
  std::string lost;
  for (const ShapeDifference& one : unsaid(family, shape)) {
    if (!is_of_training(one.setting))
      lost += (lost.empty() ? "" : ", ") + one.setting + " = " + one.value;
  }
  if (lost.empty()) return "";
  return format("transformers has no place for {} in {} and computes without", lost,
                family.architecture);
}

}  // namespace locus::model
