#include "locus/model/transformer_layer.h"

#include <ATen/ATen.h>

#include "locus/base/random.h"
#include "locus/moe/domain_groups.h"
#include "locus/nn/recompute.h"
#include "locus/ops/keyed_random.h"

namespace locus::model {
namespace {

// With so many key/value heads, each with its query heads.
nn::AttentionConfig attention_config(const ModelConfig& model, int64_t kv_heads) {
  return {.hidden_size = model.hidden_size,
          .num_heads = kv_heads * model.heads_per_group(),
          .num_key_value_heads = kv_heads,
          .head_dim = model.head_size(),
          .qkv_bias = model.attention_bias,
          .output_bias = model.attention_output_bias,
          .qk_norm = model.qk_norm,
          .norm_type = nn::parse_norm(model.norm_type),
          .norm_eps = model.norm_eps};
}

// Of this rank's expert-parallel group; empty: this rank is alone in it.
std::vector<int64_t> node_of_expert(const comm::ParallelContext& parallel, int64_t num_experts) {
  std::vector<int64_t> nodes;
  const std::vector<int64_t>& node_of_rank = parallel.ep_node_of;
  const int64_t experts_per_rank = num_experts / parallel.ep_size;
  for (const int64_t node : node_of_rank) {
    nodes.insert(nodes.end(), static_cast<size_t>(experts_per_rank), node);
  }
  return nodes;
}

int64_t own_node(const comm::ParallelContext& parallel) {
  if (parallel.ep_node_of.empty()) return 0;
  return parallel.ep_node_of[static_cast<size_t>(parallel.ep_rank)];
}

moe::RouterContext router_context(const TransformerConfig& config, const LayerConfig& layer,
                                  int64_t index) {
  return {.layer = index,
          .hidden_size = config.model.hidden_size,
          .num_experts = layer.moe.num_experts,
          .num_experts_before = layer.num_experts_before,
          .kept_experts = layer.kept_experts,
          .vocab_size = config.model.vocab_size,
          .seed = config.seed,
          .init_std = config.model.initializer_range,
          .token_frequency = config.token_frequency,
          .pool = moe::TokenPool(config.parallel.world),
          .node_of_expert = node_of_expert(config.parallel, layer.moe.num_experts),
          .node = own_node(config.parallel),
          .allowed_GE = moe::allowed_experts(layer.moe),
          .first_step = config.first_step};
}

}  // namespace

std::shared_ptr<nn::Norm> make_norm(const ModelConfig& model) {
  return std::make_shared<nn::Norm>(nn::parse_norm(model.norm_type), model.hidden_size,
                                    model.norm_eps);
}

TransformerLayer::TransformerLayer(const TransformerConfig& config, int64_t index)
    : config_(layer_config(config.model, config.moe, index)),
      seed_(config.seed),
      index_(index),
      recompute_(config.recompute) {
  const ModelConfig& model = config_.model;
  if (config_.has_attention) {
    input_norm_ = register_module("input_layernorm", make_norm(model));
    attention_ = register_module("self_attn", std::make_shared<nn::Attention>(attention_config(
                                                  config.model, model.num_key_value_heads)));
  }
  if (config_.has_cross_attention) {
    cross_norm_ = register_module("cross_attention_layernorm", make_norm(model));
    cross_attention_ =
        register_module("cross_attn", std::make_shared<nn::CrossAttention>(
                                          attention_config(config.model, config_.cross_kv_heads)));
  }
  if (!config_.has_feed_forward) return;
  const ops::Activation activation = ops::parse_activation(model.hidden_act);
  post_norm_ = register_module("post_attention_layernorm", make_norm(model));
  if (config_.has_experts()) {
    moe_ = register_module(
        "moe", std::make_shared<moe::MoeLayer>(config_.moe, router_context(config, config_, index),
                                               config.router_options, activation, model.mlp_bias,
                                               config.parallel));
  } else {
    mlp_ = register_module(
        "mlp", std::make_shared<nn::FeedForward>(model.hidden_size, model.intermediate_size,
                                                 activation, model.mlp_bias));
  }
}

TransformerLayer::Output TransformerLayer::forward(const at::Tensor& x_BSD, const LayerInput& input,
                                                   LayerCache* cache) {
  if (!recompute_ || !at::GradMode::is_enabled())
    return compute(x_BSD, input, cache, nullptr).first;
  // The routing of the first pass is kept: the second pass must not choose differently.
  auto routing = std::make_shared<moe::Assignment>();
  std::vector<at::Tensor> differentiable{x_BSD};
  if (cross_attention_) differentiable.push_back(input.memory_BLD);
  LayerInput kept = input;
  kept.memory_BLD.reset();  // comes in as one of the inputs
  auto out = nn::recompute(differentiable, [this, kept, routing](const std::vector<at::Tensor>& in,
                                                                 bool is_replay) {
    LayerInput own = kept;
    if (cross_attention_) own.memory_BLD = in[1];
    auto [output, assignment] = compute(in[0], own, nullptr, is_replay ? routing.get() : nullptr);
    if (!is_replay) *routing = assignment;
    return output.aux_loss.defined() ? std::vector<at::Tensor>{output.x_BSD, output.aux_loss}
                                     : std::vector<at::Tensor>{output.x_BSD};
  });
  return {out[0], out.size() > 1 ? out[1] : at::Tensor()};
}

std::pair<TransformerLayer::Output, moe::Assignment> TransformerLayer::compute(
    const at::Tensor& x_BSD, const LayerInput& input, LayerCache* cache,
    const moe::Assignment* replay) {
  at::Tensor h_BSD = x_BSD;
  if (attention_) {
    const at::Tensor mixed = attention_->forward(input_norm_->forward(x_BSD), input.attention,
                                                 cache == nullptr ? nullptr : &cache->self);
    h_BSD = x_BSD + dropout(mixed, "attention", input.tokens);
  }
  if (cross_attention_) h_BSD = attend_to_memory(h_BSD, input, cache);
  if (!post_norm_) return {{h_BSD, {}}, {}};
  const at::Tensor normed_TD = post_norm_->forward(h_BSD).flatten(0, 1);
  if (mlp_) {
    const at::Tensor y_BSD = mlp_->forward(normed_TD).view_as(h_BSD);
    return {{h_BSD + dropout(y_BSD, "mlp", input.tokens), {}}, {}};
  }
  const moe::MoeOutput out = moe_->forward(normed_TD, input.tokens, replay);
  return {{h_BSD + dropout(out.y_TD.view_as(h_BSD), "mlp", input.tokens), out.aux_loss},
          out.assignment};
}

at::Tensor TransformerLayer::attend_to_memory(const at::Tensor& h_BSD, const LayerInput& input,
                                              const LayerCache* cache) {
  const nn::KvCache memory =
      cache == nullptr ? cross_attention_->read(input.memory_BLD) : cache->memory;
  const at::Tensor seen =
      cross_attention_->forward(cross_norm_->forward(h_BSD), memory, input.memory_mask_B1SL);
  return h_BSD + dropout(seen, "cross attention", input.tokens);
}

nn::KvCache TransformerLayer::read_memory(const at::Tensor& memory_BLD) {
  return cross_attention_ ? cross_attention_->read(memory_BLD) : nn::KvCache();
}

at::Tensor TransformerLayer::dropout(const at::Tensor& x_BSD, std::string_view stream,
                                     const moe::TokenContext& tokens) const {
  if (!is_training() || config_.model.hidden_dropout == 0.0) return x_BSD;
  const uint64_t key = random_key(
      {seed_, static_cast<uint64_t>(tokens.step), static_cast<uint64_t>(index_), name_key(stream)});
  return ops::keyed_dropout(x_BSD.flatten(0, 1), config_.model.hidden_dropout, key,
                            tokens.global_index_T)
      .view_as(x_BSD);
}

}  // namespace locus::model
