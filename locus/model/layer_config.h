// What one layer is: as [model] and [moe] have it for all layers, or what is left of it where
// layers were cut to shapes of their own (the keys *_per_layer; locus/search/ cuts).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "locus/base/options.h"
#include "locus/model/config.h"
#include "locus/moe/config.h"

namespace locus::model {

struct LayerConfig {
  ModelConfig model;   // with the heads and the width of this layer; no lists
  moe::MoeConfig moe;  // with its experts, their width and its top_k; num_experts 0: dense
  int64_t cross_kv_heads = 0;
  // Numbers that its experts had before some of so many were cut; empty: none was.
  std::vector<int64_t> kept_experts;
  int64_t num_experts_before = 0;
  // A branch that was cut is not there, its norm neither.
  bool has_attention = true, has_cross_attention = false, has_feed_forward = true;

  bool has_experts() const { return has_feed_forward && moe.num_experts > 0; }
};

// The lists must be as layer_problems() wants them.
LayerConfig layer_config(const ModelConfig& model, const moe::MoeConfig& moe, int64_t index);

// Whether all layers are as [model] and [moe] say: what public families can hold.
bool is_uniform(const ModelConfig& model, const moe::MoeConfig& moe);

// Lists that say what all layers have say nothing: they become empty.
void settle_lists(ModelConfig& model, moe::MoeConfig& moe);

// Problems of the lists, one text each. `options`: of the router.
std::vector<std::string> layer_problems(const ModelConfig& model, const moe::MoeConfig& moe,
                                        const OptionSet& options);

// True where layer `index` (from 0) has experts, unless its feed-forward branch was cut.
bool is_moe_layer(const moe::MoeConfig& config, int64_t index);
// True where it attends to what an encoder made of another text, unless that branch was cut.
bool has_cross_attention(const ModelConfig& config, int64_t index);

}  // namespace locus::model
