#include "locus/app/run_config.h"

#include <set>

#include "locus/app/model_folder.h"
#include "locus/base/error.h"
#include "locus/base/file.h"
#include "locus/base/toml.h"
#include "locus/evolve/phases.h"
#include "locus/model/family.h"
#include "locus/model/size.h"
#include "locus/moe/router.h"

namespace locus::app {

RunConfig::RunConfig() {
  for (const moe::RouterEntry& entry : moe::router_entries()) {
    router_options.emplace(entry.name, entry.options());
  }
}

Fields RunConfig::fields(bool chosen_only) {
  Fields all = collect_fields(*this);
  for (const auto& [name, options] : router_options) {
    if (chosen_only && name != moe.router.type) continue;
    for (const Field& field : options.fields()) {
      all.push_back({"moe." + name + "." + field.path, field.value, field.doc});
    }
  }
  return all;
}

const OptionSet& RunConfig::chosen_router_options() const {
  const auto found = router_options.find(moe.router.type);
  if (found == router_options.end())
    return router_options.at(std::string(moe::find_router(moe.router.type).name));
  return found->second;
}

RunConfig parse_run_config(const std::string& source, const std::string& text,
                           const std::vector<std::string>& overrides) {
  // Read once to learn the preset, then again on top of it.
  RunConfig config;
  read_toml(source, text, overrides, config.fields());
  if (config.model.preset.empty()) return config;
  RunConfig with_preset;
  const model::Preset& preset = model::find_preset(config.model.preset);
  read_toml("preset " + std::string(preset.name), preset.toml, {}, with_preset.fields());
  read_toml(source, text, overrides, with_preset.fields());
  return with_preset;
}

namespace {

// The folder's shape in place of the defaults, and the settings on top, which may not change it.
RunConfig on_top_of_folder(const std::string& source, const std::string& text,
                           const std::vector<std::string>& overrides, const RunConfig& first) {
  const std::string& path = first.checkpoint.initial_load_path;
  const ModelFolder folder = resolve_model_folder(path);
  const model::Shape shape = model::canonical(read_model_config(folder.path).shape);
  check_weights(folder.path, shape);
  folder_tokenizer(folder.path, shape.model.vocab_size);
  RunConfig config;
  take_shape(config, model::canonical(shape));  // a copy: its options change
  config.model.preset = "";
  if (!first.model.preset.empty()) {
    read_toml(first.model.preset, model::find_preset(first.model.preset).toml, {}, config.fields());
  }
  read_toml(source, text, overrides, config.fields());
  if (config.model.vocab_size == 0) config.model.vocab_size = shape.model.vocab_size;
  std::string problems;
  model::Shape first_phase = shape_of(config);  // whose weights they are
  evolve::apply_phase(config.evolve, 0, first_phase.model, first_phase.moe);
  for (const model::ShapeDifference& one : model::differences(first_phase, shape)) {
    if (model::is_of_training(one.setting)) continue;
    problems += format("{}{} = {} contradicts {} ({}), where the shape comes from{}",
                       problems.empty() ? "" : "\n", one.setting, one.value, path,
                       one.other.empty() ? "no such setting" : one.other,
                       problems.empty() ? " (checkpoint.initial_load_path): leave it out" : "");
  }
  if (!problems.empty()) throw ConfigError("{}", problems);
  return config;
}

}  // namespace

RunConfig load_run_config(const std::string& file, const std::vector<std::string>& overrides) {
  const std::string source = file.empty() ? "--set" : file;
  const std::string text = file.empty() ? "" : read_file(file);
  RunConfig config = parse_run_config(source, text, overrides);
  if (config.checkpoint.initial_load_path.empty()) return config;
  return on_top_of_folder(source, text, overrides, config);
}

double forward_flops_per_token(const RunConfig& config) {
  const double labelled = config.model.is_encoder() ? config.data.mask_share : 1.0;
  return model::forward_flops_per_token(config.model, config.moe, config.data.sequence_length,
                                        labelled);
}

bool makes_shape(const std::string& key) {
  static const std::set<std::string> keys{"model.hidden_size",
                                          "model.num_hidden_layers",
                                          "model.num_encoder_layers",
                                          "model.num_attention_heads",
                                          "model.num_key_value_heads",
                                          "model.head_dim",
                                          "model.intermediate_size",
                                          "model.vocab_size",
                                          "model.hidden_act",
                                          "model.norm_type",
                                          "model.qk_norm",
                                          "model.tie_word_embeddings",
                                          "model.position_embedding_type",
                                          "model.num_key_value_heads_per_layer",
                                          "model.num_cross_key_value_heads_per_layer",
                                          "model.intermediate_size_per_layer",
                                          "moe.experts_per_layer",
                                          "moe.router.top_k_per_layer",
                                          "dance.mode",
                                          "dance.budgets",
                                          "dance.resource",
                                          "dance.block_size",
                                          "dance.depth",
                                          "dance.expert_ranks",
                                          "evolve.num_experts",
                                          "moe.num_experts",
                                          "moe.domain_groups",
                                          "moe.intermediate_size",
                                          "moe.layer_freq",
                                          "moe.layers",
                                          "moe.shared_expert_intermediate_size",
                                          "moe.shared_expert_gate",
                                          "moe.shared_expert_scope"};
  return keys.contains(key);
}

std::string to_toml(RunConfig& config, bool with_docs) {
  return write_toml(config.fields(/*chosen_only=*/true), with_docs);
}

}  // namespace locus::app
