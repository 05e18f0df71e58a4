#include "locus/model/decoder.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>

#include "locus/base/error.h"
#include "locus/base/random.h"
#include "locus/moe/domain_groups.h"
#include "locus/nn/recompute.h"
#include "locus/ops/keyed_random.h"

namespace locus::model {
namespace {

nn::AttentionConfig attention_config(const ModelConfig& model) {
  return {.hidden_size = model.hidden_size,
          .num_heads = model.num_attention_heads,
          .num_key_value_heads = model.kv_heads(),
          .head_dim = model.head_size(),
          .qkv_bias = model.attention_bias,
          .output_bias = model.attention_output_bias,
          .qk_norm = model.qk_norm,
          .norm_type = nn::parse_norm(model.norm_type),
          .norm_eps = model.norm_eps};
}

nn::RopeConfig rope_config(const ModelConfig& model) {
  return {.head_dim = model.head_size(),
          .theta = model.rope_theta,
          .scaling = model.rope_scaling,
          .factor = model.rope_scaling_factor,
          .low_freq_factor = model.rope_low_freq_factor,
          .high_freq_factor = model.rope_high_freq_factor,
          .original_context = model.rope_original_max_position_embeddings};
}

std::shared_ptr<nn::Norm> make_norm(const ModelConfig& model) {
  return std::make_shared<nn::Norm>(nn::parse_norm(model.norm_type), model.hidden_size,
                                    model.norm_eps);
}

// Scores of new token i of row b against cache place j: allowed where j <= lengths[b] + i.
at::Tensor cache_mask(const at::Tensor& position_BS, int64_t used, at::ScalarType type) {
  const at::Tensor place_L = at::arange(used, position_BS.options());
  const at::Tensor hidden_BSL = place_L.view({1, 1, used}).gt(position_BS.unsqueeze(2));
  return at::zeros(hidden_BSL.sizes(), position_BS.options().dtype(type))
      .masked_fill_(hidden_BSL, -std::numeric_limits<double>::infinity())
      .unsqueeze(1);
}

// Of this rank's expert-parallel group; empty: this rank is alone in it.
std::vector<int64_t> node_of_expert(const DecoderConfig& config) {
  std::vector<int64_t> nodes;
  const std::vector<int64_t>& node_of_rank = config.parallel.ep_node_of;
  const int64_t experts_per_rank = config.moe.num_experts / config.parallel.ep_size;
  for (const int64_t node : node_of_rank) {
    nodes.insert(nodes.end(), static_cast<size_t>(experts_per_rank), node);
  }
  return nodes;
}

int64_t own_node(const comm::ParallelContext& parallel) {
  if (parallel.ep_node_of.empty()) return 0;
  return parallel.ep_node_of[static_cast<size_t>(parallel.ep_rank)];
}

}  // namespace

moe::MoeLayer& Decoder::moe_layer(int64_t number) const {
  const auto found = std::find_if(moe_layers_.begin(), moe_layers_.end(),
                                  [number](const auto& entry) { return entry.first == number; });
  LOCUS_CHECK(found != moe_layers_.end(), "layer {} has no experts", number);
  return *found->second;
}

std::vector<int64_t> Decoder::held_experts(std::string_view name) const {
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

bool is_moe_layer(const moe::MoeConfig& config, int64_t index) {
  if (config.num_experts == 0) return false;
  if (!config.layers.empty()) {
    return std::find(config.layers.begin(), config.layers.end(), index) != config.layers.end();
  }
  return (index + 1) % config.layer_freq == 0;
}

// Attention and feed-forward with their norms; pre-norm residual blocks.
class DecoderLayer : public torch::nn::Module {
 public:
  DecoderLayer(const DecoderConfig& config, int64_t index)
      : model_(config.model), seed_(config.seed), index_(index), recompute_(config.recompute) {
    const ops::Activation activation = ops::parse_activation(model_.hidden_act);
    input_norm_ = register_module("input_layernorm", make_norm(model_));
    attention_ =
        register_module("self_attn", std::make_shared<nn::Attention>(attention_config(model_)));
    post_norm_ = register_module("post_attention_layernorm", make_norm(model_));
    if (is_moe_layer(config.moe, index)) {
      const moe::RouterContext context{.layer = index,
                                       .hidden_size = model_.hidden_size,
                                       .num_experts = config.moe.num_experts,
                                       .vocab_size = model_.vocab_size,
                                       .seed = config.seed,
                                       .init_std = model_.initializer_range,
                                       .token_frequency = config.token_frequency,
                                       .pool = moe::TokenPool(config.parallel.world),
                                       .node_of_expert = node_of_expert(config),
                                       .node = own_node(config.parallel),
                                       .allowed_GE = moe::allowed_experts(config.moe),
                                       .first_step = config.first_step};
      moe_ = register_module(
          "moe", std::make_shared<moe::MoeLayer>(config.moe, context, config.router_options,
                                                 activation, model_.mlp_bias, config.parallel));
    } else {
      mlp_ = register_module(
          "mlp", std::make_shared<nn::FeedForward>(model_.hidden_size, model_.intermediate_size,
                                                   activation, model_.mlp_bias));
    }
  }

  struct Output {
    at::Tensor x_BSD;
    at::Tensor aux_loss;  // undefined in dense layers
  };

  Output forward(const at::Tensor& x_BSD, const nn::AttentionInput& attention,
                 const moe::TokenContext& tokens, nn::KvCache* cache) {
    if (!recompute_ || !at::GradMode::is_enabled())
      return compute(x_BSD, attention, tokens, cache, nullptr).first;
    // The routing of the first pass is kept: the second pass must not choose differently.
    auto routing = std::make_shared<moe::Assignment>();
    auto out = nn::recompute(
        x_BSD, [this, attention, tokens, routing](const at::Tensor& x, bool is_replay) {
          auto [output, assignment] =
              compute(x, attention, tokens, nullptr, is_replay ? routing.get() : nullptr);
          if (!is_replay) *routing = assignment;
          return output.aux_loss.defined() ? std::vector<at::Tensor>{output.x_BSD, output.aux_loss}
                                           : std::vector<at::Tensor>{output.x_BSD};
        });
    return {out[0], out.size() > 1 ? out[1] : at::Tensor()};
  }

  const std::shared_ptr<moe::MoeLayer>& moe_layer() const { return moe_; }

 private:
  std::pair<Output, moe::Assignment> compute(const at::Tensor& x_BSD,
                                             const nn::AttentionInput& attention,
                                             const moe::TokenContext& tokens, nn::KvCache* cache,
                                             const moe::Assignment* replay) {
    const at::Tensor mixed = attention_->forward(input_norm_->forward(x_BSD), attention, cache);
    const at::Tensor h_BSD = x_BSD + dropout(mixed, "attention", tokens);
    const at::Tensor normed_TD = post_norm_->forward(h_BSD).flatten(0, 1);
    if (mlp_)
      return {{h_BSD + dropout(mlp_->forward(normed_TD).view_as(h_BSD), "mlp", tokens), {}}, {}};
    const moe::MoeOutput out = moe_->forward(normed_TD, tokens, replay);
    return {{h_BSD + dropout(out.y_TD.view_as(h_BSD), "mlp", tokens), out.aux_loss},
            out.assignment};
  }

  at::Tensor dropout(const at::Tensor& x_BSD, std::string_view stream,
                     const moe::TokenContext& tokens) const {
    if (!is_training() || model_.hidden_dropout == 0.0) return x_BSD;
    const uint64_t key = random_key({seed_, static_cast<uint64_t>(tokens.step),
                                     static_cast<uint64_t>(index_), name_key(stream)});
    return ops::keyed_dropout(x_BSD.flatten(0, 1), model_.hidden_dropout, key,
                              tokens.global_index_T)
        .view_as(x_BSD);
  }

  ModelConfig model_;
  uint64_t seed_;
  int64_t index_;
  bool recompute_;
  std::shared_ptr<nn::Norm> input_norm_, post_norm_;
  std::shared_ptr<nn::Attention> attention_;
  std::shared_ptr<nn::FeedForward> mlp_;  // one of the two
  std::shared_ptr<moe::MoeLayer> moe_;
};

Decoder::Decoder(const DecoderConfig& config) : config_(config) {
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
        stack->register_module(std::to_string(i), std::make_shared<DecoderLayer>(config_, i)));
    if (layers_.back()->moe_layer()) moe_layers_.emplace_back(i, layers_.back()->moe_layer());
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
  initialize();
}

void Decoder::set_domain_names(const std::vector<std::string>& names) {
  domain_names_ = names;
  std::vector<int64_t> group;
  for (const std::string& name : names) {
    const auto found = std::find(group_domains_.begin(), group_domains_.end(), name);
    group.push_back(found == group_domains_.end() ? -1 : found - group_domains_.begin());
  }
  group.push_back(-1);
  group_of_name_ = at::tensor(group, at::kLong);
}

std::vector<std::string> Decoder::without_group(const std::vector<std::string>& names) const {
  std::vector<std::string> missing;
  for (const std::string& name : names) {
    const auto found = std::find(group_domains_.begin(), group_domains_.end(), name);
    if (domain_model_ && found == group_domains_.end()) missing.push_back(name);
  }
  return missing;
}

// int64 [T].
at::Tensor Decoder::domain_groups(const DecoderInput& input) const {
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
void Decoder::initialize() {
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

at::Tensor Decoder::embed(const DecoderInput& input, const at::Tensor& global_index_T) {
  at::Tensor x_BSD = at::embedding(embed_tokens_, input.input_ids_BS);
  if (embed_positions_.defined())
    x_BSD = x_BSD + at::embedding(embed_positions_, input.position_ids_BS);
  const double p = config_.model.embedding_dropout;
  if (is_training() && p > 0.0) {
    const uint64_t key =
        random_key({config_.seed, static_cast<uint64_t>(input.step), name_key("embedding")});
    x_BSD = ops::keyed_dropout(x_BSD.flatten(0, 1), p, key, global_index_T).view_as(x_BSD);
  }
  // Float64 weights (tests) compute in float64, whatever the setting.
  return embed_tokens_.scalar_type() == at::kDouble ? x_BSD : x_BSD.to(config_.compute_type);
}

DecoderOutput Decoder::forward(const DecoderInput& input) {
  const int64_t batch = input.input_ids_BS.size(0);
  const int64_t length = input.input_ids_BS.size(1);
  const at::TensorOptions integers = input.input_ids_BS.options();
  const at::Tensor sequence_B =
      input.sequence_index_B.defined() ? input.sequence_index_B : at::arange(batch, integers);
  moe::TokenContext tokens;
  tokens.id_T = input.input_ids_BS.flatten();
  tokens.domain_T = input.domain_ids_BS.defined() ? input.domain_ids_BS.flatten()
                                                  : at::full({batch * length}, -1, integers);
  tokens.group_T = domain_groups(input);
  tokens.is_placed = input.is_placed;
  tokens.global_index_T =
      (sequence_B.unsqueeze(1) * length + at::arange(length, integers)).flatten();
  tokens.num_sequences = batch;
  tokens.step = input.step;

  at::Tensor x_BSD = embed(input, tokens.global_index_T);
  nn::AttentionInput attention;
  if (config_.model.position_embedding_type == "rope") {
    attention.rope = nn::rope_table(input.position_ids_BS, rope_config(config_.model));
  }
  if (input.document_ids_BS.defined()) {
    attention.mask_B1SL = nn::document_mask(input.document_ids_BS, x_BSD.scalar_type());
  }
  at::Tensor aux_loss = at::zeros({}, x_BSD.options().dtype(at::kFloat));
  for (const auto& layer : layers_) {
    const DecoderLayer::Output out = layer->forward(x_BSD, attention, tokens, nullptr);
    x_BSD = out.x_BSD;
    if (out.aux_loss.defined()) aux_loss = aux_loss + out.aux_loss;
  }
  return {norm_->forward(x_BSD).flatten(0, 1), aux_loss};
}

DecoderCache Decoder::make_cache(int64_t batch_size, int64_t capacity) const {
  DecoderCache cache;
  cache.capacity = capacity;
  cache.lengths.assign(static_cast<size_t>(batch_size), 0);
  if (domain_model_) cache.domain_evidence_BLG = domain_model_->no_evidence(batch_size, capacity);
  const at::ScalarType type =
      embed_tokens_.scalar_type() == at::kDouble ? at::kDouble : config_.compute_type;
  const std::vector<int64_t> shape{batch_size, config_.model.kv_heads(), capacity,
                                   config_.model.head_size()};
  for (size_t i = 0; i < layers_.size(); ++i) {
    // Zeros, not garbage: a masked NaN is still NaN.
    cache.layers.push_back(
        {at::zeros(shape, embed_tokens_.options().dtype(type).requires_grad(false)),
         at::zeros(shape, embed_tokens_.options().dtype(type).requires_grad(false))});
  }
  return cache;
}

at::Tensor Decoder::forward_cached(const at::Tensor& input_ids_BS, DecoderCache& cache,
                                   const std::vector<int64_t>& num_new) {
  const at::NoGradGuard no_grad;
  const int64_t length = input_ids_BS.size(1);
  const int64_t longest = *std::max_element(cache.lengths.begin(), cache.lengths.end());
  LOCUS_CHECK(longest + length <= cache.capacity, "{} + {} tokens in a cache of {}", longest,
              length, cache.capacity);
  const at::TensorOptions integers = input_ids_BS.options();
  const at::Tensor start_B = at::tensor(cache.lengths, integers);
  DecoderInput input;
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
  nn::AttentionInput attention;
  attention.cache_lengths = cache.lengths;
  attention.mask_B1SL = cache_mask(input.position_ids_BS, longest + length, x_BSD.scalar_type());
  if (config_.model.position_embedding_type == "rope") {
    attention.rope = nn::rope_table(input.position_ids_BS, rope_config(config_.model));
  }
  for (size_t i = 0; i < layers_.size(); ++i) {
    x_BSD = layers_[i]->forward(x_BSD, attention, tokens, &cache.layers[i]).x_BSD;
  }
  for (size_t b = 0; b < cache.lengths.size(); ++b) cache.lengths[b] += num_new[b];
  return norm_->forward(x_BSD).flatten(0, 1);
}

}  // namespace locus::model
