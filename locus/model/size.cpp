#include "locus/model/size.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>
#include <utility>

#include "locus/model/layer_config.h"
#include "locus/moe/router.h"

namespace locus::model {
namespace {

int64_t up_rows(const ModelConfig& model, int64_t width) {
  return model.hidden_act == "swiglu" ? 2 * width : width;
}

int64_t feed_forward_size(const ModelConfig& model, int64_t width) {
  const int64_t weights = (up_rows(model, width) + width) * model.hidden_size;
  return weights + (model.mlp_bias ? up_rows(model, width) + model.hidden_size : 0);
}

// With so many key/value heads, each with its query heads.
int64_t attention_size(const ModelConfig& model, int64_t kv_heads) {
  const int64_t kv = kv_heads * model.head_size();
  const int64_t q = kv * model.heads_per_group();
  const int64_t norm_values = model.norm_type == "layernorm" ? 2 : 1;
  int64_t size = model.hidden_size * (q + 2 * kv) + q * model.hidden_size;
  if (model.attention_bias) size += q + 2 * kv;
  if (model.attention_output_bias) size += model.hidden_size;
  if (model.qk_norm == "full") size += norm_values * (q + kv);
  if (model.qk_norm == "head") size += norm_values * 2 * model.head_size();
  return size;
}

}  // namespace

ParameterCount count_parameters(const ModelConfig& model, const moe::MoeConfig& moe) {
  ParameterCount count;
  const moe::RouterEntry& router = moe::find_router(moe.router.type);
  const int64_t norm_size = model.hidden_size * (model.norm_type == "layernorm" ? 2 : 1);
  count.embedding = model.vocab_size * model.hidden_size;
  if (model.position_embedding_type == "learned") {
    count.embedding += model.max_position_embeddings * model.hidden_size;
  }
  if (!model.tie_word_embeddings) count.output = model.vocab_size * model.hidden_size;
  count.norms = norm_size * (model.is_encoder_decoder() ? 2 : 1);
  for (int64_t i = 0; i < model.num_hidden_layers; ++i) {
    const LayerConfig layer = layer_config(model, moe, i);
    for (const auto& [is_there, kv_heads] :
         {std::pair(layer.has_attention, layer.model.num_key_value_heads),
          std::pair(layer.has_cross_attention, layer.cross_kv_heads)}) {
      if (!is_there) continue;
      count.attention += attention_size(model, kv_heads);
      count.norms += norm_size;
    }
    if (!layer.has_feed_forward) continue;
    count.norms += norm_size;
    if (!layer.has_experts()) {
      count.dense_mlp += feed_forward_size(model, layer.model.intermediate_size);
      continue;
    }
    const int64_t expert = feed_forward_size(model, layer.moe.intermediate_size);
    count.experts += expert * layer.moe.num_experts;
    count.active_experts += static_cast<int64_t>(
        std::llround(static_cast<double>(expert) * router.experts_per_token(layer.moe)));
    for (const moe::RouterParameter& one :
         router.parameters({layer.moe.num_experts, model.hidden_size, model.vocab_size})) {
      const int64_t size =
          std::accumulate(one.shape.begin(), one.shape.end(), int64_t{1}, std::multiplies<>());
      (one.is_table ? count.router_tables : count.routers) += size;
    }
    if (moe.shared_expert_intermediate_size > 0) {
      count.shared_experts += feed_forward_size(model, moe.shared_expert_intermediate_size);
      if (moe.shared_expert_gate) count.shared_experts += model.hidden_size;
    }
  }
  return count;
}

double forward_flops_per_token(const ModelConfig& model, const moe::MoeConfig& moe,
                               int64_t sequence_length, double labelled_share) {
  ModelConfig products = model;  // without what is added or scaled by
  products.mlp_bias = products.attention_bias = products.attention_output_bias = false;
  products.qk_norm = "none";
  const ParameterCount count = count_parameters(products, moe);
  const int64_t matrices = count.attention + count.dense_mlp + count.active_experts +
                           count.shared_experts + count.routers;
  const double output = labelled_share * static_cast<double>(model.vocab_size * model.hidden_size);
  int64_t channels = 0;  // of all heads, for half of a square of scores each
  for (int64_t i = 0; i < model.num_hidden_layers; ++i) {
    const LayerConfig layer = layer_config(model, moe, i);
    channels += (i < model.num_encoder_layers ? 2 : 1) * layer.model.num_key_value_heads;
    channels += 2 * layer.cross_kv_heads;
  }
  channels *= model.heads_per_group() * model.head_size();
  const double half = 2.0 * static_cast<double>(sequence_length);  // QK and PV
  return 2.0 * (static_cast<double>(matrices) + output) + half * static_cast<double>(channels);
}

double expert_forward_flops(const ModelConfig& model, const moe::MoeConfig& moe, int64_t layer) {
  const int64_t width = layer_config(model, moe, layer).moe.intermediate_size;
  return 2.0 * static_cast<double>((up_rows(model, width) + width) * model.hidden_size);
}

double planned_experts_flops(const ModelConfig& model, const moe::MoeConfig& moe) {
  double flops = 0;
  for (int64_t i = 0; i < model.num_hidden_layers; ++i) {
    const LayerConfig layer = layer_config(model, moe, i);
    if (!layer.has_experts()) continue;
    flops += moe::find_router(moe.router.type).experts_per_token(layer.moe) *
             expert_forward_flops(model, moe, i);
  }
  return flops;
}

TrainingMemory estimate_memory(const ModelConfig& model, const moe::MoeConfig& moe,
                               int64_t micro_batch_size, int64_t sequence_length,
                               int64_t compute_bytes, bool recompute) {
  TrainingMemory memory;
  const moe::RouterEntry& router = moe::find_router(moe.router.type);
  const double parameters = static_cast<double>(count_parameters(model, moe).total());
  memory.weights = 4 * parameters;
  memory.gradients = 4 * parameters;
  memory.optimizer = 8 * parameters;
  const auto tokens = static_cast<double>(micro_batch_size * sequence_length);
  const auto hidden = static_cast<double>(model.hidden_size);
  const auto qkv_of = [&](int64_t kv_heads) {
    return static_cast<double>(kv_heads * (model.heads_per_group() + 2) * model.head_size());
  };
  double per_layer_sum = 0;
  double largest = 0;
  for (int64_t i = 0; i < model.num_hidden_layers; ++i) {
    const LayerConfig layer = layer_config(model, moe, i);
    // Norms, residuals, attention in and out, rotated heads.
    double values = 5 * hidden + 3 * qkv_of(layer.model.num_key_value_heads);
    if (layer.has_cross_attention) values += 3 * hidden + 2 * qkv_of(layer.cross_kv_heads);
    if (layer.has_experts()) {
      const double k = router.experts_per_token(layer.moe);
      values += k * (2 * hidden + static_cast<double>(up_rows(model, layer.moe.intermediate_size)));
      values += static_cast<double>(up_rows(model, moe.shared_expert_intermediate_size));
    } else if (layer.has_feed_forward) {
      values += static_cast<double>(up_rows(model, layer.model.intermediate_size));
    }
    per_layer_sum += values;
    largest = std::max(largest, values);
  }
  if (recompute) per_layer_sum = largest + hidden * static_cast<double>(model.num_hidden_layers);
  memory.activations = tokens * per_layer_sum * static_cast<double>(compute_bytes);
  // The mask of packed documents, of an encoder-decoder three, with a boolean beside each while it
  // is made.
  const int64_t masks = model.is_encoder_decoder() ? 3 : 1;
  const auto pairs =
      static_cast<double>(masks * micro_batch_size * sequence_length * sequence_length);
  memory.activations += pairs * static_cast<double>(compute_bytes + 1);
  // Cross entropy runs in chunks of 4M logits: float32 logits and one copy in the compute type.
  const double logits = std::min(tokens * static_cast<double>(model.vocab_size), 4.0 * (1 << 20));
  memory.logits = logits * static_cast<double>(4 + compute_bytes) +
                  tokens * hidden * static_cast<double>(compute_bytes);
  return memory;
}

}  // namespace locus::model
