// The transformer: embeddings, layers (transformer_layer.h), final norm, output projection. A
// decoder, an encoder, or both (ModelConfig::num_encoder_layers): the layers stand in one list, the
// encoder's first.
//
// B sequences, S tokens each, T = B*S tokens, D hidden size, V vocabulary.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/nn/module.h>

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "locus/model/domain_model.h"
#include "locus/model/transformer_layer.h"

namespace locus::model {

struct TransformerInput {
  at::Tensor input_ids_BS;  // int64, as all below
  at::Tensor position_ids_BS;
  at::Tensor document_ids_BS;   // undefined: each row is one document
  at::Tensor domain_ids_BS;     // places in the names of set_domain_names(); undefined: unknown
  at::Tensor sequence_index_B;  // place of each row in the global batch; undefined: 0, 1, ...
  bool is_placed = false;       // see TokenContext
  int64_t step = 0;
  // Of an encoder-decoder, the other text, L tokens in each row; document ids tell which document
  // belongs to which. Undefined elsewhere; documents undefined: each row is one.
  at::Tensor source_ids_BL, source_position_ids_BL, source_document_ids_BL;
};

struct TransformerOutput {
  at::Tensor hidden_TD;  // after the final norm
  at::Tensor aux_loss;   // float32 scalar: all layers
};

// Keys and values of all layers of the decoder; row b has lengths[b] tokens.
struct TransformerCache {
  std::vector<LayerCache> layers;
  std::vector<int64_t> lengths;
  int64_t capacity = 0;
  at::Tensor domain_evidence_BLG;  // see model/domain_model.h; undefined without domain groups
  at::Tensor memory_mask_B11L;     // which tokens of the other text are there; undefined: none is

  // Row i becomes row rows[i] of before. Without its memory where rows change places with rows of
  // the same other text alone.
  void select(const std::vector<int64_t>& rows, bool with_memory = true);
};

class Transformer : public torch::nn::Module {
 public:
  explicit Transformer(const TransformerConfig& config);

  TransformerOutput forward(const TransformerInput& input);
  // New tokens after those in the cache, which grows by num_new[b]. Row b's first new token has
  // position lengths[b]. `num_new` [B]: how many of the row's S tokens are real, the rest is
  // padding at the end.
  at::Tensor forward_cached(const at::Tensor& input_ids_BS, TransformerCache& cache,
                            const std::vector<int64_t>& num_new);
  TransformerCache make_cache(int64_t batch_size, int64_t capacity) const;
  // Of an encoder-decoder: what its decoder needs of other texts, row b of lengths[b] tokens, the
  // rest is padding at the end.
  TransformerCache make_cache(const at::Tensor& source_ids_BL, const std::vector<int64_t>& lengths,
                              int64_t capacity);

  // The names behind TransformerInput::domain_ids_BS from now on. With moe.domain_groups, a token
  // whose domain has no group there, or no name, goes where its text says it belongs
  // (domain_model.h). At first there are no names.
  void set_domain_names(const std::vector<std::string>& names);
  const std::vector<std::string>& domain_names() const { return domain_names_; }
  // Of these names, those that have no group; none where there are no groups at all.
  std::vector<std::string> without_group(const std::vector<std::string>& names) const;

  // Of hidden states after the final norm, [T, V].
  at::Tensor logits(const at::Tensor& hidden_TD) const;
  // [V, D]: rows give logits from hidden states.
  const at::Tensor& output_weight() const { return lm_head_.defined() ? lm_head_ : embed_tokens_; }

  const TransformerConfig& config() const { return config_; }
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
  // Hidden states and what goes with them through the layers of an encoder or decoder.
  struct Stream {
    at::Tensor x_BSD;
    LayerInput input;
    at::Tensor aux_loss;
  };
  Stream enter(const TransformerInput& input, bool is_causal,
               std::string_view dropout_stream = "embedding");
  void run_layers(int64_t begin, int64_t end, Stream& stream);
  Stream encode(const TransformerInput& input);
  // `stream`: of its dropout's draws.
  at::Tensor embed(const TransformerInput& input, const at::Tensor& global_index_T,
                   std::string_view stream = "embedding");
  at::Tensor domain_groups(const TransformerInput& input) const;
  void initialize();

  TransformerConfig config_;
  at::Tensor embed_tokens_, embed_positions_, lm_head_;
  std::vector<std::shared_ptr<TransformerLayer>> layers_;
  std::shared_ptr<nn::Norm> encoder_norm_;  // of an encoder-decoder
  std::shared_ptr<nn::Norm> norm_;
  std::vector<std::pair<int64_t, std::shared_ptr<moe::MoeLayer>>> moe_layers_;
  std::vector<std::string> group_domains_;     // that own a group, in the order of the groups
  std::shared_ptr<DomainModel> domain_model_;  // null: no groups
  std::vector<std::string> domain_names_;
  at::Tensor group_of_name_;  // int64 [names + 1]; -1: none, as the last one, of unknown domains
};

}  // namespace locus::model
