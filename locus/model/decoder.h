// The decoder: embeddings, layers of attention and feed-forward (dense or mixture of experts),
// final norm, output projection.
//
// B sequences, S tokens each, T = B*S tokens, D hidden size, V vocabulary.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <memory>
#include <vector>

#include "locus/base/options.h"
#include "locus/comm/parallel_context.h"
#include "locus/model/config.h"
#include "locus/model/domain_model.h"
#include "locus/moe/config.h"
#include "locus/moe/moe_layer.h"
#include "locus/nn/attention.h"
#include "locus/nn/feed_forward.h"
#include "locus/nn/norm.h"

namespace locus::model {

// All that a decoder is built from.
struct DecoderConfig {
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
};

// True where layer `index` (from 0) has experts.
bool is_moe_layer(const moe::MoeConfig& config, int64_t index);

struct DecoderInput {
  at::Tensor input_ids_BS;  // int64, as all below
  at::Tensor position_ids_BS;
  at::Tensor document_ids_BS;   // undefined: each row is one document
  at::Tensor domain_ids_BS;     // places in the names of set_domain_names(); undefined: unknown
  at::Tensor sequence_index_B;  // place of each row in the global batch; undefined: 0, 1, ...
  bool is_placed = false;       // see TokenContext
  int64_t step = 0;
};

struct DecoderOutput {
  at::Tensor hidden_TD;  // after the final norm
  at::Tensor aux_loss;   // float32 scalar: all layers
};

// Keys and values of all layers; row b has lengths[b] tokens.
struct DecoderCache {
  std::vector<nn::KvCache> layers;
  std::vector<int64_t> lengths;
  int64_t capacity = 0;
  at::Tensor domain_evidence_BLG;  // see model/domain_model.h; undefined without domain groups
};

class DecoderLayer;

class Decoder : public torch::nn::Module {
 public:
  explicit Decoder(const DecoderConfig& config);

  DecoderOutput forward(const DecoderInput& input);
  // New tokens after those in the cache, which grows by num_new[b]. Row b's first new token has
  // position lengths[b]. `num_new` [B]: how many of the row's S tokens are real, the rest is
  // padding at the end.
  at::Tensor forward_cached(const at::Tensor& input_ids_BS, DecoderCache& cache,
                            const std::vector<int64_t>& num_new);
  DecoderCache make_cache(int64_t batch_size, int64_t capacity) const;

  // The names behind DecoderInput::domain_ids_BS from now on. With moe.domain_groups, a token whose
  // domain has no group there, or no name, goes where its text says it belongs (domain_model.h).
  // At first there are no names.
  void set_domain_names(const std::vector<std::string>& names);
  const std::vector<std::string>& domain_names() const { return domain_names_; }
  // Of these names, those that have no group; none where there are no groups at all.
  std::vector<std::string> without_group(const std::vector<std::string>& names) const;

  // [V, D]: rows give logits from hidden states.
  const at::Tensor& output_weight() const { return lm_head_.defined() ? lm_head_ : embed_tokens_; }

  const DecoderConfig& config() const { return config_; }
  // The numbers of the experts that this rank holds of the layer in whose parameter's name, or that
  // of its state, this is: "layers.3." anywhere in it. Empty where there is no such layer.
  std::vector<int64_t> held_experts(std::string_view name) const;

  // That of this number, which must have experts.
  moe::MoeLayer& moe_layer(int64_t number) const;

  // The MoE layers with their layer numbers, in order.
  const std::vector<std::pair<int64_t, std::shared_ptr<moe::MoeLayer>>>& moe_layers() const {
    return moe_layers_;
  }

 private:
  at::Tensor embed(const DecoderInput& input, const at::Tensor& global_index_T);
  at::Tensor domain_groups(const DecoderInput& input) const;
  void initialize();

  DecoderConfig config_;
  at::Tensor embed_tokens_, embed_positions_, lm_head_;
  std::vector<std::shared_ptr<DecoderLayer>> layers_;
  std::shared_ptr<nn::Norm> norm_;
  std::vector<std::pair<int64_t, std::shared_ptr<moe::MoeLayer>>> moe_layers_;
  std::vector<std::string> group_domains_;     // that own a group, in the order of the groups
  std::shared_ptr<DomainModel> domain_model_;  // null: no groups
  std::vector<std::string> domain_names_;
  at::Tensor group_of_name_;  // int64 [names + 1]; -1: none, as the last one, of unknown domains
};

}  // namespace locus::model
