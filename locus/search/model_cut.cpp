#include "locus/search/model_cut.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <charconv>
#include <map>
#include <numeric>

#include "locus/base/error.h"
#include "locus/moe/expert_numbers.h"
#include "locus/train/train_step.h"

namespace locus::search {
namespace {

at::Tensor to_index(const std::vector<int64_t>& numbers) { return at::tensor(numbers, at::kLong); }

// Rows [begin + n * size, begin + (n + 1) * size) for every number n.
void add_rows(std::vector<int64_t>& rows, const std::vector<int64_t>& numbers, int64_t size,
              int64_t begin = 0) {
  for (const int64_t number : numbers) {
    for (int64_t i = 0; i < size; ++i) rows.push_back(begin + number * size + i);
  }
}

struct ParameterName {
  int64_t layer = -1;  // -1: of no layer
  std::string block, rest;
};

ParameterName parse_name(const std::string& name) {
  constexpr std::string_view kLayers = "layers.";
  ParameterName out;
  if (!name.starts_with(kLayers)) return out;
  const size_t block = name.find('.', kLayers.size()) + 1;
  const size_t rest = name.find('.', block) + 1;
  std::from_chars(name.data() + kLayers.size(), name.data() + block - 1, out.layer);
  out.block = name.substr(block, rest - 1 - block);
  out.rest = name.substr(rest);
  return out;
}

// Of one layer's tensors.
class LayerMap {
 public:
  LayerMap(const model::TransformerConfig& whole, const model::Transformer& whole_transformer,
           const model::Transformer& part_transformer, const LayerCut& cut, int64_t index)
      : layer_(model::layer_config(whole.model, whole.moe, index)),
        activation_(ops::parse_activation(whole.model.hidden_act)),
        whole_(whole_transformer),
        part_(part_transformer),
        cut_(cut) {}

  TensorCut of(const std::string& name, const std::string& block, const std::string& rest,
               const at::Tensor& part, const at::Tensor& whole) const {
    if (block == "self_attn") return of_attention(rest);
    if (block == "cross_attn") return of_cross_attention(rest);
    if (block == "mlp") return of_feed_forward(rest, 0);
    if (block != "moe") return {};
    if (rest.starts_with("experts.")) {
      TensorCut out = of_feed_forward(rest.substr(rest.find('.') + 1), 1);
      out.insert(out.begin(), {0, own_experts(name)});
      return out;
    }
    // A router's rows for experts; all else of it, and shared experts, stay as they are.
    if (part.sizes() == whole.sizes()) return {};
    LOCUS_CHECK(rest.starts_with("router.") && whole.size(0) == layer_.moe.num_experts,
                "{} has no row for each expert", name);
    return {{0, to_index(cut_.experts)}};
  }

 private:
  TensorCut of_attention(const std::string& rest) const {
    const std::vector<int64_t>& heads = cut_.heads;
    const int64_t num_heads = layer_.model.num_key_value_heads;
    const int64_t size = layer_.model.head_dim;
    const int64_t q_size = size * heads_per_group();
    std::vector<int64_t> rows;
    add_rows(rows, heads, q_size);
    if (rest.starts_with("o_proj.weight")) return {{1, to_index(rows)}};
    if (!rest.starts_with("qkv_proj.")) return {};
    add_rows(rows, heads, size, num_heads * q_size);           // keys
    add_rows(rows, heads, size, num_heads * (q_size + size));  // values
    return {{0, to_index(rows)}};
  }

  TensorCut of_cross_attention(const std::string& rest) const {
    const int64_t size = layer_.model.head_dim;
    std::vector<int64_t> q, kv;
    add_rows(q, cut_.cross_heads, size * heads_per_group());
    if (rest.starts_with("o_proj.weight")) return {{1, to_index(q)}};
    if (rest.starts_with("q_proj.")) return {{0, to_index(q)}};
    if (!rest.starts_with("kv_proj.")) return {};
    add_rows(kv, cut_.cross_heads, size);
    add_rows(kv, cut_.cross_heads, size, layer_.cross_kv_heads * size);
    return {{0, to_index(kv)}};
  }

  // `dim`: of the up projection's rows; before it are the experts.
  TensorCut of_feed_forward(const std::string& rest, int64_t dim) const {
    if (rest == "down_proj") return {{dim + 1, to_index(cut_.channels)}};
    if (rest != "up_proj" && rest != "up_proj_bias") return {};
    std::vector<int64_t> rows = cut_.channels;
    if (activation_ == ops::Activation::kSwiglu) add_rows(rows, cut_.channels, 1, width());
    return {{dim, to_index(rows)}};
  }

  // The places among this rank's experts of those that the smaller model has on it.
  at::Tensor own_experts(const std::string& name) const {
    const std::vector<int64_t> before = whole_.held_experts(name);
    std::vector<int64_t> places;
    for (const int64_t number : part_.held_experts(name)) {
      const int64_t expert = cut_.experts[static_cast<size_t>(number)];
      const auto found = std::find(before.begin(), before.end(), expert);
      LOCUS_CHECK(found != before.end(), "expert {} of {} is on another rank", expert, name);
      places.push_back(found - before.begin());
    }
    return to_index(places);
  }

  int64_t heads_per_group() const {
    const model::ModelConfig& model = whole_.config().model;
    return model.heads_per_group();
  }
  int64_t width() const {
    return layer_.has_experts() ? layer_.moe.intermediate_size : layer_.model.intermediate_size;
  }

  const model::LayerConfig layer_;
  const ops::Activation activation_;
  const model::Transformer& whole_;
  const model::Transformer& part_;
  const LayerCut& cut_;
};

}  // namespace

std::vector<int64_t> first_numbers(int64_t count) {
  std::vector<int64_t> numbers(static_cast<size_t>(count));
  std::iota(numbers.begin(), numbers.end(), int64_t{0});
  return numbers;
}

ModelCut whole_cut(const model::ModelConfig& model, const moe::MoeConfig& moe) {
  ModelCut cut;
  for (int64_t i = 0; i < model.num_hidden_layers; ++i) {
    const model::LayerConfig layer = model::layer_config(model, moe, i);
    LayerCut own;
    own.heads = first_numbers(layer.model.num_key_value_heads);
    own.cross_heads = first_numbers(layer.cross_kv_heads);
    if (layer.has_experts()) {
      own.channels = first_numbers(layer.moe.intermediate_size);
      own.experts = first_numbers(layer.moe.num_experts);
      own.top_k = layer.moe.router.top_k;
    } else if (layer.has_feed_forward) {
      own.channels = first_numbers(layer.model.intermediate_size);
    }
    cut.push_back(std::move(own));
  }
  return cut;
}

std::pair<model::ModelConfig, moe::MoeConfig> cut_config(const model::ModelConfig& model,
                                                         const moe::MoeConfig& moe,
                                                         const ModelCut& cut) {
  LOCUS_CHECK(std::ssize(cut) == model.num_hidden_layers, "a cut of {} layers of {}", cut.size(),
              model.num_hidden_layers);
  std::pair<model::ModelConfig, moe::MoeConfig> out{model, moe};
  auto& [m, e] = out;
  m.num_key_value_heads_per_layer.clear();
  m.num_cross_key_value_heads_per_layer.clear();
  m.intermediate_size_per_layer.clear();
  e.experts_per_layer.clear();
  e.router.top_k_per_layer.clear();
  for (size_t i = 0; i < cut.size(); ++i) {
    const model::LayerConfig before = model::layer_config(model, moe, static_cast<int64_t>(i));
    m.num_key_value_heads_per_layer.push_back(std::ssize(cut[i].heads));
    m.num_cross_key_value_heads_per_layer.push_back(std::ssize(cut[i].cross_heads));
    m.intermediate_size_per_layer.push_back(std::ssize(cut[i].channels));
    // By the numbers before any cut.
    std::vector<int64_t> experts;
    for (const int64_t number : cut[i].experts) {
      experts.push_back(
          before.kept_experts.empty() ? number : before.kept_experts[static_cast<size_t>(number)]);
    }
    e.experts_per_layer.push_back(moe::expert_numbers_text(experts));
    e.router.top_k_per_layer.push_back(cut[i].top_k > 0 ? cut[i].top_k : moe.router.top_k);
  }
  if (!model.is_encoder_decoder()) m.num_cross_key_value_heads_per_layer.clear();
  if (moe.num_experts == 0) {
    e.experts_per_layer.clear();
    e.router.top_k_per_layer.clear();
  }
  model::settle_lists(m, e);
  return out;
}

CutMap::CutMap(const model::Transformer& whole, const model::Transformer& part,
               const ModelCut& cut) {
  std::vector<LayerMap> layers;
  for (size_t i = 0; i < cut.size(); ++i) {
    layers.emplace_back(whole.config(), whole, part, cut[i], static_cast<int64_t>(i));
  }
  const auto all = whole.named_parameters();
  for (const auto& item : part.named_parameters()) {
    const ParameterName name = parse_name(item.key());
    const at::Tensor& before = all[item.key()];
    TensorCut own;
    if (name.layer >= 0) {
      own = layers[static_cast<size_t>(name.layer)].of(item.key(), name.block, name.rest,
                                                       item.value(), before);
    }
    cuts_.emplace_back(item.key(), std::move(own));
  }
}

const TensorCut& CutMap::of(const std::string& name) const {
  const auto found = std::find_if(cuts_.begin(), cuts_.end(),
                                  [&name](const auto& one) { return one.first == name; });
  LOCUS_CHECK(found != cuts_.end(), "the smaller model has no {}", name);
  return found->second;
}

at::Tensor CutMap::take(const at::Tensor& whole, const TensorCut& cut) {
  at::Tensor part = whole;
  for (const KeptIndices& kept : cut) {
    part = part.index_select(kept.dim, kept.index.to(part.device()));
  }
  return part;
}

void CutMap::add_back(const at::Tensor& whole, const TensorCut& cut, const at::Tensor& part) {
  if (cut.empty()) {
    whole.add_(part);
  } else if (cut.size() == 1) {
    whole.index_add_(cut[0].dim, cut[0].index.to(whole.device()), part);
  } else {  // experts, and channels of each
    for (int64_t i = 0; i < cut[0].index.size(0); ++i) {
      const int64_t place = cut[0].index[i].item<int64_t>();
      whole.select(0, place).index_add_(cut[1].dim - 1, cut[1].index.to(whole.device()), part[i]);
    }
  }
}

void copy_weights(const model::Transformer& whole, model::Transformer& part, const CutMap& map) {
  const at::NoGradGuard no_grad;
  const auto all = whole.named_parameters();
  const auto own = part.named_parameters();
  for (const auto& [name, cut] : map.parameters()) {
    if (!own[name].is_alias_of(all[name])) own[name].copy_(CutMap::take(all[name], cut));
  }
  const auto buffers = whole.named_buffers();
  for (const auto& item : part.named_buffers()) {
    if (item.key().find(".router.") != std::string::npos) continue;
    item.value().copy_(buffers[item.key()]);
  }
  for (const auto& [layer, moe] : part.moe_layers()) {
    moe->router().cut_from(whole.moe_layer(layer).router());
  }
}

void share_weights(const model::Transformer& whole, model::Transformer& part, const CutMap& map) {
  const auto all = whole.named_parameters();
  auto own = part.named_parameters();
  for (const auto& [name, cut] : map.parameters()) {
    if (cut.empty()) own[name].set_data(all[name].data());
  }
}

void add_gradients(const model::Transformer& whole, model::Transformer& part, const CutMap& map) {
  const at::NoGradGuard no_grad;
  const auto all = whole.named_parameters();
  const auto own = part.named_parameters();
  for (const auto& [name, cut] : map.parameters()) {
    at::Tensor& gradient = own[name].mutable_grad();
    if (!gradient.defined()) continue;
    at::Tensor& sum = all[name].mutable_grad();
    if (!sum.defined()) sum = at::zeros_like(all[name]);
    CutMap::add_back(sum, cut, gradient);
    gradient.reset();
  }
}

}  // namespace locus::search
