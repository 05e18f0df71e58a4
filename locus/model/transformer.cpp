#include "locus/model/transformer.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "locus/base/error.h"
#include "locus/base/random.h"
#include "locus/moe/domain_groups.h"
#include "locus/ops/keyed_random.h"
#include "locus/ops/linear.h"

namespace locus::model {
namespace {

nn::RopeConfig rope_config(const ModelConfig& model) {
  return {.head_dim = model.head_size(),
          .theta = model.rope_theta,
          .scaling = model.rope_scaling,
          .factor = model.rope_scaling_factor,
          .low_freq_factor = model.rope_low_freq_factor,
          .high_freq_factor = model.rope_high_freq_factor,
          .original_context = model.rope_original_max_position_embeddings};
}

// New token i of row b sees cache place j where j <= lengths[b] + i.
at::Tensor cache_mask(const at::Tensor& position_BS, int64_t used, at::ScalarType type) {
  const at::Tensor place_L = at::arange(used, position_BS.options());
  return nn::additive_mask(place_L.view({1, 1, used}).le(position_BS.unsqueeze(2)), type);
}

}  // namespace

moe::MoeLayer& Transformer::moe_layer(int64_t number) const {
  const auto found = std::find_if(moe_layers_.begin(), moe_layers_.end(),
                                  [number](const auto& entry) { return entry.first == number; });
  LOCUS_CHECK(found != moe_layers_.end(), "layer {} has no experts", number);
  return *found->second;
}

std::vector<int64_t> Transformer::held_experts(std::string_view name) const {
  constexpr std::string_view kLayers = "layers.";
  const size_t begin = name.find(kLayers);
  int64_t number = -1;
  if (begin != std::string_view::npos) {
    std::from_chars(name.data() + begin + kLayers.size(), name.data() + name.size(), number);
  }
  for (const auto& [layer, moe] : moe_layers_) {
    if (layer == number) return moe->held_experts();
  }
  return {};
}

Transformer::Transformer(const TransformerConfig& config) : config_(config) {
  const ModelConfig& model = config_.model;
  embed_tokens_ =
      register_parameter("embed_tokens", at::empty({model.vocab_size, model.hidden_size}));
  if (model.position_embedding_type == "learned") {
    embed_positions_ = register_parameter(
        "embed_positions", at::empty({model.max_position_embeddings, model.hidden_size}));
  }
  auto stack = register_module("layers", std::make_shared<torch::nn::Module>());
  for (int64_t i = 0; i < model.num_hidden_layers; ++i) {
    layers_.push_back(
        stack->register_module(std::to_string(i), std::make_shared<TransformerLayer>(config_, i)));
    if (layers_.back()->moe_layer()) moe_layers_.emplace_back(i, layers_.back()->moe_layer());
  }
  if (model.is_encoder_decoder()) {
    encoder_norm_ = register_module("encoder_norm", make_norm(model));
  }
  norm_ = register_module("norm", make_norm(model));
  if (!model.tie_word_embeddings) {
    lm_head_ = register_parameter("lm_head", at::empty({model.vocab_size, model.hidden_size}));
  }
  for (moe::DomainGroup& group : moe::parse_domain_groups(config_.moe.domain_groups)) {
    group_domains_.push_back(std::move(group.domain));
  }
  if (!group_domains_.empty() && !moe_layers_.empty()) {
    domain_model_ = register_module(
        "domain_model",
        std::make_shared<DomainModel>(std::ssize(group_domains_), model.vocab_size));
    if (!config_.domain_token_counts.empty()) domain_model_->fit(config_.domain_token_counts);
  }
  set_domain_names({});
  if (config_.is_drawn) initialize();
}

void Transformer::set_domain_names(const std::vector<std::string>& names) {
  domain_names_ = names;
  std::vector<int64_t> group;
  for (const std::string& name : names) {
    const auto found = std::find(group_domains_.begin(), group_domains_.end(), name);
    group.push_back(found == group_domains_.end() ? -1 : found - group_domains_.begin());
  }
  group.push_back(-1);
  group_of_name_ = at::tensor(group, at::kLong);
}

std::vector<std::string> Transformer::without_group(const std::vector<std::string>& names) const {
  std::vector<std::string> missing;
  for (const std::string& name : names) {
    const auto found = std::find(group_domains_.begin(), group_domains_.end(), name);
    if (domain_model_ && found == group_domains_.end()) missing.push_back(name);
  }
  return missing;
}

// int64 [T].
at::Tensor Transformer::domain_groups(const TransformerInput& input) const {
  if (!domain_model_) return {};
  const at::Tensor& ids_BS = input.input_ids_BS;
  if (!input.domain_ids_BS.defined() || domain_names_.empty()) {
    return domain_model_->infer(ids_BS).flatten();
  }
  const int64_t unknown = group_of_name_.numel() - 1;
  const at::Tensor& domain_BS = input.domain_ids_BS;
  const at::Tensor name_BS =
      domain_BS.masked_fill(domain_BS.lt(0).logical_or(domain_BS.gt(unknown)), unknown);
  const at::Tensor group_BS =
      group_of_name_.to(ids_BS.device()).index_select(0, name_BS.flatten()).view_as(domain_BS);
  const at::Tensor is_known_BS = group_BS.ge(0);
  if (is_known_BS.all().item<bool>()) return group_BS.flatten();
  return at::where(is_known_BS, group_BS, domain_model_->infer(ids_BS)).flatten();
}

// Each parameter by a generator of its own, keyed by its name (and expert): the same start under
// every layout and whatever else the model holds.
void Transformer::initialize() {
  const at::NoGradGuard no_grad;
  const double std = config_.model.initializer_range;
  const double residual_std =
      config_.model.residual_init_scaling
          ? std / std::sqrt(2.0 * static_cast<double>(config_.model.num_hidden_layers))
          : std;
  for (auto& item : named_parameters()) {
    const std::string& name = item.key();
    if (name.find(".router.") != std::string::npos) continue;  // routers draw their own
    const at::Tensor& parameter = item.value();
    const uint64_t key = random_key({config_.seed, name_key(name)});
    if (name.ends_with("norm.weight")) {
      parameter.fill_(1.0);
    } else if (name.ends_with("bias")) {
      parameter.zero_();
    } else {
      const bool residual = name.ends_with("o_proj.weight") || name.ends_with("down_proj");
      const bool by_expert = name.find(".experts.") != std::string::npos;
      const int64_t first = by_expert ? held_experts(name).front() : 0;  // neighbours at first
      for (int64_t e = 0; e < (by_expert ? parameter.size(0) : 1); ++e) {
        ops::keyed_normal_(by_expert ? parameter[e] : parameter, residual ? residual_std : std,
                           key + static_cast<uint64_t>(first + e));
      }
    }
  }
}

at::Tensor Transformer::embed(const TransformerInput& input, const at::Tensor& global_index_T,
                              std::string_view stream) {
  at::Tensor x_BSD = at::embedding(embed_tokens_, input.input_ids_BS);
  if (embed_positions_.defined())
    x_BSD = x_BSD + at::embedding(embed_positions_, input.position_ids_BS);
  const double p = config_.model.embedding_dropout;
  if (is_training() && p > 0.0) {
    const uint64_t key =
        random_key({config_.seed, static_cast<uint64_t>(input.step), name_key(stream)});
    x_BSD = ops::keyed_dropout(x_BSD.flatten(0, 1), p, key, global_index_T).view_as(x_BSD);
  }
  // Float64 weights (tests) compute in float64, whatever the setting.
  return embed_tokens_.scalar_type() == at::kDouble ? x_BSD : x_BSD.to(config_.compute_type);
}

Transformer::Stream Transformer::enter(const TransformerInput& input, bool is_causal,
                                       std::string_view dropout_stream) {
  const int64_t batch = input.input_ids_BS.size(0);
  const int64_t length = input.input_ids_BS.size(1);
  const at::TensorOptions integers = input.input_ids_BS.options();
  const at::Tensor sequence_B =
      input.sequence_index_B.defined() ? input.sequence_index_B : at::arange(batch, integers);
  Stream stream;
  moe::TokenContext& tokens = stream.input.tokens;
  tokens.id_T = input.input_ids_BS.flatten();
  tokens.domain_T = input.domain_ids_BS.defined() ? input.domain_ids_BS.flatten()
                                                  : at::full({batch * length}, -1, integers);
  tokens.group_T = domain_groups(input);
  tokens.is_placed = input.is_placed;
  tokens.global_index_T =
      (sequence_B.unsqueeze(1) * length + at::arange(length, integers)).flatten();
  tokens.num_sequences = batch;
  tokens.step = input.step;

  stream.x_BSD = embed(input, tokens.global_index_T, dropout_stream);
  nn::AttentionInput& attention = stream.input.attention;
  attention.is_causal = is_causal;
  if (config_.model.position_embedding_type == "rope") {
    attention.rope = nn::rope_table(input.position_ids_BS, rope_config(config_.model));
  }
  if (input.document_ids_BS.defined()) {
    attention.mask_B1SL =
        nn::document_mask(input.document_ids_BS, stream.x_BSD.scalar_type(), is_causal);
  }
  stream.aux_loss = at::zeros({}, stream.x_BSD.options().dtype(at::kFloat));
  return stream;
}

void Transformer::run_layers(int64_t begin, int64_t end, Stream& stream) {
  for (int64_t i = begin; i < end; ++i) {
    const TransformerLayer::Output out =
        layers_[static_cast<size_t>(i)]->forward(stream.x_BSD, stream.input, nullptr);
    stream.x_BSD = out.x_BSD;
    if (out.aux_loss.defined()) stream.aux_loss = stream.aux_loss + out.aux_loss;
  }
}

// The other text through the encoder of an encoder-decoder.
Transformer::Stream Transformer::encode(const TransformerInput& input) {
  LOCUS_CHECK(input.source_ids_BL.defined(), "an encoder-decoder without a text to encode");
  TransformerInput source;
  source.input_ids_BS = input.source_ids_BL;
  source.position_ids_BS = input.source_position_ids_BL;
  source.document_ids_BS = input.source_document_ids_BL;
  source.sequence_index_B = input.sequence_index_B;
  source.is_placed = input.is_placed;
  source.step = input.step;
  Stream stream = enter(source, /*is_causal=*/false, "source embedding");
  run_layers(0, config_.model.num_encoder_layers, stream);
  stream.x_BSD = encoder_norm_->forward(stream.x_BSD);
  return stream;
}

at::Tensor Transformer::logits(const at::Tensor& hidden_TD) const {
  const at::Tensor& weight_VD = output_weight();
  return ops::linear(hidden_TD.to(weight_VD.scalar_type()), weight_VD, {});
}

TransformerOutput Transformer::forward(const TransformerInput& input) {
  const ModelConfig& model = config_.model;
  if (!model.is_encoder_decoder()) {
    Stream stream = enter(input, /*is_causal=*/model.is_decoder());
    run_layers(0, model.num_hidden_layers, stream);
    return {norm_->forward(stream.x_BSD).flatten(0, 1), stream.aux_loss};
  }
  const Stream source = encode(input);
  Stream stream = enter(input, /*is_causal=*/true);
  stream.input.memory_BLD = source.x_BSD;
  if (input.document_ids_BS.defined()) {
    stream.input.memory_mask_B1SL = nn::pair_mask(
        input.document_ids_BS, input.source_document_ids_BL, stream.x_BSD.scalar_type());
  }
  run_layers(model.num_encoder_layers, model.num_hidden_layers, stream);
  return {norm_->forward(stream.x_BSD).flatten(0, 1), source.aux_loss + stream.aux_loss};
}

void TransformerCache::select(const std::vector<int64_t>& rows, bool with_memory) {
  const at::Tensor row = at::tensor(rows, at::kLong).to(layers.front().self.key_BGLC.device());
  const auto take = [&row](at::Tensor& tensor) {
    if (tensor.defined()) tensor = tensor.index_select(0, row);
  };
  for (LayerCache& layer : layers) {
    take(layer.self.key_BGLC);
    take(layer.self.value_BGLC);
    if (!with_memory) continue;
    take(layer.memory.key_BGLC);
    take(layer.memory.value_BGLC);
  }
  take(domain_evidence_BLG);
  if (with_memory) take(memory_mask_B11L);
  std::vector<int64_t> taken;
  for (const int64_t from : rows) taken.push_back(lengths[static_cast<size_t>(from)]);
  lengths = std::move(taken);
}

TransformerCache Transformer::make_cache(int64_t batch_size, int64_t capacity) const {
  TransformerCache cache;
  cache.capacity = capacity;
  cache.lengths.assign(static_cast<size_t>(batch_size), 0);
  if (domain_model_) cache.domain_evidence_BLG = domain_model_->no_evidence(batch_size, capacity);
  const at::ScalarType type =
      embed_tokens_.scalar_type() == at::kDouble ? at::kDouble : config_.compute_type;
  const int64_t first = config_.model.is_encoder_decoder() ? config_.model.num_encoder_layers : 0;
  for (int64_t i = first; i < config_.model.num_hidden_layers; ++i) {
    const LayerConfig layer = layer_config(config_.model, config_.moe, i);
    const std::vector<int64_t> shape{batch_size, layer.model.num_key_value_heads, capacity,
                                     layer.model.head_dim};
    // Zeros, not garbage: a masked NaN is still NaN.
    const at::TensorOptions options = embed_tokens_.options().dtype(type).requires_grad(false);
    cache.layers.emplace_back().self = {at::zeros(shape, options), at::zeros(shape, options)};
  }
  return cache;
}

TransformerCache Transformer::make_cache(const at::Tensor& source_ids_BL,
                                         const std::vector<int64_t>& lengths, int64_t capacity) {
  const at::NoGradGuard no_grad;
  const at::TensorOptions integers = source_ids_BL.options();
  const at::Tensor position_L = at::arange(source_ids_BL.size(1), integers);
  const at::Tensor is_padding_BL =
      position_L.unsqueeze(0).ge(at::tensor(lengths, integers).unsqueeze(1));
  TransformerInput input;
  input.source_ids_BL = source_ids_BL;
  input.source_position_ids_BL = position_L.expand_as(source_ids_BL);
  input.source_document_ids_BL = is_padding_BL.to(at::kLong);  // the padding is another document
  const Stream source = encode(input);
  TransformerCache cache = make_cache(source_ids_BL.size(0), capacity);
  for (size_t i = 0; i < cache.layers.size(); ++i) {
    TransformerLayer& layer = *layers_[layers_.size() - cache.layers.size() + i];
    cache.layers[i].memory = layer.read_memory(source.x_BSD);
  }
  cache.memory_mask_B11L =
      nn::additive_mask(is_padding_BL.logical_not().unsqueeze(1), source.x_BSD.scalar_type());
  return cache;
}

at::Tensor Transformer::forward_cached(const at::Tensor& input_ids_BS, TransformerCache& cache,
                                       const std::vector<int64_t>& num_new) {
  const at::NoGradGuard no_grad;
  const int64_t length = input_ids_BS.size(1);
  const int64_t longest = *std::max_element(cache.lengths.begin(), cache.lengths.end());
  LOCUS_CHECK(longest + length <= cache.capacity, "{} + {} tokens in a cache of {}", longest,
              length, cache.capacity);
  const at::TensorOptions integers = input_ids_BS.options();
  const at::Tensor start_B = at::tensor(cache.lengths, integers);
  TransformerInput input;
  input.input_ids_BS = input_ids_BS;
  input.position_ids_BS = start_B.unsqueeze(1) + at::arange(length, integers);
  moe::TokenContext tokens;
  tokens.id_T = input_ids_BS.flatten();
  tokens.domain_T = at::full_like(tokens.id_T, -1);
  if (domain_model_) {
    tokens.group_T =
        domain_model_->infer(input_ids_BS, start_B, cache.domain_evidence_BLG).flatten();
  }
  tokens.global_index_T = at::arange(tokens.id_T.numel(), integers);
  tokens.num_sequences = input_ids_BS.size(0);

  at::Tensor x_BSD = embed(input, tokens.global_index_T);
  LayerInput layer_input;
  layer_input.tokens = tokens;
  layer_input.memory_mask_B1SL = cache.memory_mask_B11L;
  nn::AttentionInput& attention = layer_input.attention;
  attention.cache_lengths = cache.lengths;
  attention.mask_B1SL = cache_mask(input.position_ids_BS, longest + length, x_BSD.scalar_type());
  if (config_.model.position_embedding_type == "rope") {
    attention.rope = nn::rope_table(input.position_ids_BS, rope_config(config_.model));
  }
  for (size_t i = 0; i < cache.layers.size(); ++i) {
    TransformerLayer& layer = *layers_[layers_.size() - cache.layers.size() + i];
    x_BSD = layer.forward(x_BSD, layer_input, &cache.layers[i]).x_BSD;
  }
  for (size_t b = 0; b < cache.lengths.size(); ++b) cache.lengths[b] += num_new[b];
  return norm_->forward(x_BSD).flatten(0, 1);
}

}  // namespace locus::model
