#include "locus/model/layer_config.h"

#include <algorithm>

#include "locus/base/error.h"
#include "locus/base/format.h"
#include "locus/moe/domain_groups.h"
#include "locus/moe/expert_numbers.h"
#include "locus/moe/router.h"

namespace locus::model {
namespace {

// The groups of the domains among the experts that are left, by their new numbers.
std::vector<std::string> cut_domain_groups(const std::vector<std::string>& texts,
                                           const std::vector<int64_t>& kept) {
  std::vector<std::string> out;
  for (const moe::DomainGroup& group : moe::parse_domain_groups(texts)) {
    std::vector<int64_t> numbers;
    for (const int64_t expert : group.experts) {
      const auto found = std::find(kept.begin(), kept.end(), expert);
      if (found != kept.end()) numbers.push_back(found - kept.begin());
    }
    out.push_back(format("{} = {}", group.domain, moe::expert_numbers_text(numbers)));
  }
  return out;
}

void cut_experts(const std::string& text, LayerConfig& layer) {
  layer.num_experts_before = layer.moe.num_experts;
  if (text.empty()) return;
  layer.kept_experts = moe::parse_expert_numbers(text).value_or(std::vector<int64_t>());
  LOCUS_CHECK(!layer.kept_experts.empty(), "moe.experts_per_layer holds \"{}\"", text);
  layer.moe.num_experts = std::ssize(layer.kept_experts);
  layer.moe.domain_groups = cut_domain_groups(layer.moe.domain_groups, layer.kept_experts);
  layer.moe.num_domain_groups = 0;  // they have been dealt
}

}  // namespace

bool is_moe_layer(const moe::MoeConfig& config, int64_t index) {
  if (config.num_experts == 0) return false;
  if (!config.layers.empty()) {
    return std::find(config.layers.begin(), config.layers.end(), index) != config.layers.end();
  }
  return (index + 1) % config.layer_freq == 0;
}

bool has_cross_attention(const ModelConfig& config, int64_t index) {
  return config.is_encoder_decoder() && index >= config.num_encoder_layers;
}

LayerConfig layer_config(const ModelConfig& model, const moe::MoeConfig& moe, int64_t index) {
  LayerConfig layer;
  layer.model = model;
  layer.moe = moe;
  ModelConfig& own = layer.model;
  const auto i = static_cast<size_t>(index);
  own.head_dim = model.head_size();
  own.num_key_value_heads = model.kv_heads();
  layer.has_cross_attention = has_cross_attention(model, index);
  layer.cross_kv_heads = layer.has_cross_attention ? model.kv_heads() : 0;
  if (!model.num_key_value_heads_per_layer.empty()) {
    own.num_key_value_heads = model.num_key_value_heads_per_layer[i];
  }
  if (layer.has_cross_attention && !model.num_cross_key_value_heads_per_layer.empty()) {
    layer.cross_kv_heads = model.num_cross_key_value_heads_per_layer[i];
  }
  own.num_attention_heads = own.num_key_value_heads * model.heads_per_group();
  layer.has_attention = own.num_key_value_heads > 0;
  layer.has_cross_attention = layer.cross_kv_heads > 0;

  const bool has_experts = is_moe_layer(moe, index);
  if (!model.intermediate_size_per_layer.empty()) {
    const int64_t width = model.intermediate_size_per_layer[i];
    (has_experts ? layer.moe.intermediate_size : own.intermediate_size) = width;
    layer.has_feed_forward = width > 0;
  }
  if (!has_experts) {
    layer.moe.num_experts = 0;
  } else {
    cut_experts(moe.experts_per_layer.empty() ? "" : moe.experts_per_layer[i], layer);
    if (!moe.router.top_k_per_layer.empty()) layer.moe.router.top_k = moe.router.top_k_per_layer[i];
  }
  own.num_key_value_heads_per_layer.clear();
  own.num_cross_key_value_heads_per_layer.clear();
  own.intermediate_size_per_layer.clear();
  layer.moe.experts_per_layer.clear();
  layer.moe.router.top_k_per_layer.clear();
  return layer;
}

void settle_lists(ModelConfig& model, moe::MoeConfig& moe) {
  const auto clear_if_all = [](auto& list, const auto& value) {
    if (std::all_of(list.begin(), list.end(), [&](const auto& one) { return one == value; })) {
      list.clear();
    }
  };
  clear_if_all(model.num_key_value_heads_per_layer, model.kv_heads());
  clear_if_all(model.num_cross_key_value_heads_per_layer, model.kv_heads());
  clear_if_all(moe.router.top_k_per_layer, moe.router.top_k);
  const std::string all = moe.num_experts > 1    ? format("0-{}", moe.num_experts - 1)
                          : moe.num_experts == 1 ? "0"
                                                 : "";
  for (std::string& text : moe.experts_per_layer) {
    if (text == all) text.clear();
  }
  clear_if_all(moe.experts_per_layer, std::string());
  bool is_said = true;
  for (size_t i = 0; i < model.intermediate_size_per_layer.size(); ++i) {
    const bool has_experts = is_moe_layer(moe, static_cast<int64_t>(i));
    const int64_t whole = has_experts ? moe.intermediate_size : model.intermediate_size;
    is_said = is_said && model.intermediate_size_per_layer[i] == whole;
  }
  if (is_said) model.intermediate_size_per_layer.clear();
}

bool is_uniform(const ModelConfig& model, const moe::MoeConfig& moe) {
  return model.num_key_value_heads_per_layer.empty() &&
         model.num_cross_key_value_heads_per_layer.empty() &&
         model.intermediate_size_per_layer.empty() && moe.experts_per_layer.empty() &&
         moe.router.top_k_per_layer.empty();
}

namespace {

class Problems {
 public:
  Problems(const ModelConfig& model, const moe::MoeConfig& moe, const OptionSet& options)
      : model_(model), moe_(moe), options_(options) {}

  std::vector<std::string> find() {
    numbers("model.num_key_value_heads_per_layer", model_.num_key_value_heads_per_layer,
            model_.kv_heads(), 0);
    numbers("model.num_cross_key_value_heads_per_layer", model_.num_cross_key_value_heads_per_layer,
            model_.kv_heads(), 0);
    widths();
    if (moe_.num_experts > 0) {
      numbers("moe.router.top_k_per_layer", moe_.router.top_k_per_layer, moe_.router.top_k, 1);
      experts();
    }
    if (!model_.num_key_value_heads_per_layer.empty() && model_.qk_norm == "full") whole_heads();
    if (texts_.empty() && !is_uniform(model_, moe_)) routers();
    return std::move(texts_);
  }

 private:
  template <class... Args>
  void add(std::string_view pattern, const Args&... args) {
    texts_.push_back(format(pattern, args...));
  }

  template <class List>
  bool has_length(std::string_view key, const List& list) {
    if (list.empty()) return false;
    if (std::ssize(list) == model_.num_hidden_layers) return true;
    add("{} has {} entries for model.num_hidden_layers = {}", key, list.size(),
        model_.num_hidden_layers);
    return false;
  }

  void numbers(std::string_view key, const std::vector<int64_t>& list, int64_t most,
               int64_t least) {
    if (!has_length(key, list)) return;
    for (size_t i = 0; i < list.size(); ++i) {
      if (list[i] < least || list[i] > most) {
        add("{}: layer {} has {}; {} to {} can be left of it", key, i, list[i], least, most);
      }
    }
  }

  void widths() {
    const auto& list = model_.intermediate_size_per_layer;
    if (!has_length("model.intermediate_size_per_layer", list)) return;
    for (size_t i = 0; i < list.size(); ++i) {
      const bool has_experts = is_moe_layer(moe_, static_cast<int64_t>(i));
      const int64_t most = has_experts ? moe_.intermediate_size : model_.intermediate_size;
      if (list[i] < 0 || list[i] > most) {
        add("model.intermediate_size_per_layer: layer {} has {}; 0 to {} can be left of {}", i,
            list[i], most, has_experts ? "moe.intermediate_size" : "model.intermediate_size");
      }
    }
  }

  void experts() {
    const auto& list = moe_.experts_per_layer;
    if (!has_length("moe.experts_per_layer", list)) return;
    for (size_t i = 0; i < list.size(); ++i) {
      const auto index = static_cast<int64_t>(i);
      if (list[i].empty()) continue;
      const auto kept = moe::parse_expert_numbers(list[i]);
      if (!kept || kept->back() >= moe_.num_experts) {
        add("moe.experts_per_layer: layer {} has \"{}\"; write the experts that are left of {}, "
            "numbers from 0, as \"0-3, 6\"",
            i, list[i], moe_.num_experts);
      } else if (texts_.empty() && is_moe_layer(moe_, index)) {
        const LayerConfig layer = layer_config(model_, moe_, index);
        for (const std::string& problem : moe::domain_group_problems(layer.moe)) {
          add("moe.experts_per_layer: layer {}: {}", i, problem);
        }
      }
    }
  }

  // Each layer's router, with the experts that it has left.
  void routers() {
    for (int64_t i = 0; i < model_.num_hidden_layers; ++i) {
      const LayerConfig layer = layer_config(model_, moe_, i);
      if (!layer.has_experts()) continue;
      for (const std::string& problem :
           moe::find_router(layer.moe.router.type)
               .validate(layer.moe.router, layer.moe.num_experts, options_)) {
        add("layer {}, as *_per_layer leave it: {}", i, problem);
      }
    }
  }

  // The norm is over all heads of a layer: with fewer it would be another one.
  void whole_heads() {
    for (size_t i = 0; i < model_.num_key_value_heads_per_layer.size(); ++i) {
      const int64_t left = model_.num_key_value_heads_per_layer[i];
      if (left == 0 || left == model_.kv_heads()) continue;
      add("model.num_key_value_heads_per_layer: layer {} has {} of {} heads, but model.qk_norm = "
          "\"full\" is a norm over all of them: keep all or none",
          i, left, model_.kv_heads());
    }
  }

  const ModelConfig& model_;
  const moe::MoeConfig& moe_;
  const OptionSet& options_;
  std::vector<std::string> texts_;
};

}  // namespace

std::vector<std::string> layer_problems(const ModelConfig& model, const moe::MoeConfig& moe,
                                        const OptionSet& options) {
  return Problems(model, moe, options).find();
}

}  // namespace locus::model
