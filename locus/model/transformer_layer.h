// One layer of a transformer: attention, in a decoder beside an encoder cross-attention, and
// feed-forward (dense or mixture of experts), each as a pre-norm residual block. Branches that were
// cut (layer_config.h) are not there.
//
// B sequences, S tokens each, L of the other text, D hidden size.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <memory>
#include <string_view>
#include <utility>
#include <vector>

#include "locus/base/options.h"
#include "locus/comm/parallel_context.h"
#include "locus/model/layer_config.h"
#include "locus/moe/config.h"
#include "locus/moe/moe_layer.h"
#include "locus/nn/attention.h"
#include "locus/nn/cross_attention.h"
#include "locus/nn/feed_forward.h"
#include "locus/nn/norm.h"

namespace locus::model {

// All that a transformer is built from.
struct TransformerConfig {
  ModelConfig model;
  moe::MoeConfig moe;
  OptionSet router_options;
  uint64_t seed = 0;
  at::ScalarType compute_type = at::kFloat;  // weights are float32 always; this type computes
  bool recompute = false;                // recompute each layer's activations in the backward pass
  std::vector<int64_t> token_frequency;  // for hash routing; empty: unknown
  // Tokens of each domain of moe.domain_groups, [G][V]; empty: come with the weights.
  std::vector<std::vector<int64_t>> domain_token_counts;
  comm::ParallelContext parallel;  // of the experts, this rank holds its part
  int64_t first_step = 0;          // from which it has these experts (moe/router.h)
  bool is_drawn = true;            // false: weights come from elsewhere, and are garbage at first
};

std::shared_ptr<nn::Norm> make_norm(const ModelConfig& model);

// What enters a layer beside the hidden states: the same in all layers of an encoder or decoder.
struct LayerInput {
  nn::AttentionInput attention;
  moe::TokenContext tokens;
  at::Tensor memory_BLD;        // what the encoder made of the other text; undefined: no such text
  at::Tensor memory_mask_B1SL;  // see CrossAttention::forward()
};

// Of one layer, for generation.
struct LayerCache {
  nn::KvCache self;
  nn::KvCache memory;  // of the other text; undefined tensors: no such text
};

class TransformerLayer : public torch::nn::Module {
 public:
  TransformerLayer(const TransformerConfig& config, int64_t index);

  struct Output {
    at::Tensor x_BSD;
    at::Tensor aux_loss;  // undefined in dense layers
  };
  // `cache`: of this layer; null: none.
  Output forward(const at::Tensor& x_BSD, const LayerInput& input, LayerCache* cache);

  // Keys and values of what the encoder made of the other text; none without cross-attention.
  nn::KvCache read_memory(const at::Tensor& memory_BLD);

  const std::shared_ptr<moe::MoeLayer>& moe_layer() const { return moe_; }

 private:
  std::pair<Output, moe::Assignment> compute(const at::Tensor& x_BSD, const LayerInput& input,
                                             LayerCache* cache, const moe::Assignment* replay);
  at::Tensor attend_to_memory(const at::Tensor& h_BSD, const LayerInput& input,
                              const LayerCache* cache);
  at::Tensor dropout(const at::Tensor& x_BSD, std::string_view stream,
                     const moe::TokenContext& tokens) const;

  LayerConfig config_;
  uint64_t seed_;
  int64_t index_;
  bool recompute_;
  std::shared_ptr<nn::Norm> input_norm_, cross_norm_, post_norm_;  // null: no such branch
  std::shared_ptr<nn::Attention> attention_;
  std::shared_ptr<nn::CrossAttention> cross_attention_;  // null: none
  std::shared_ptr<nn::FeedForward> mlp_;                 // at most one of the two
  std::shared_ptr<moe::MoeLayer> moe_;
};

}  // namespace locus::model
