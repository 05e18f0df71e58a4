// The shape of a transformer, [model], in Hugging Face's words.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace locus::model {

struct ModelConfig {
  std::string preset;
  int64_t vocab_size = 0;
  int64_t hidden_size = 256;
  int64_t num_hidden_layers = 4;
  int64_t num_encoder_layers = 0;
  int64_t num_attention_heads = 8;
  int64_t num_key_value_heads = 0;
  int64_t head_dim = 0;
  int64_t intermediate_size = 1024;
  std::string hidden_act = "swiglu";
  bool mlp_bias = false;
  bool attention_bias = false;
  bool attention_output_bias = false;
  std::string qk_norm = "none";
  std::string norm_type = "rmsnorm";
  double norm_eps = 1e-5;
  std::string position_embedding_type = "rope";
  int64_t max_position_embeddings = 2048;
  double rope_theta = 10000.0;
  std::string rope_scaling = "none";
  double rope_scaling_factor = 1.0;
  double rope_low_freq_factor = 1.0;
  double rope_high_freq_factor = 4.0;
  int64_t rope_original_max_position_embeddings = 8192;
  bool tie_word_embeddings = false;
  double hidden_dropout = 0.0;
  double embedding_dropout = 0.0;
  double initializer_range = 0.02;
  bool residual_init_scaling = true;
  // Layers that were cut to shapes of their own: layer_config.h. Empty: none.
  std::vector<int64_t> num_key_value_heads_per_layer;
  std::vector<int64_t> num_cross_key_value_heads_per_layer;
  std::vector<int64_t> intermediate_size_per_layer;

  // A decoder reads from left to right; an encoder sees all of a text; an encoder-decoder has both,
  // and its decoder's layers attend to what the encoder made of another text.
  bool is_decoder() const { return num_encoder_layers == 0; }
  bool is_encoder() const { return num_encoder_layers == num_hidden_layers; }
  bool is_encoder_decoder() const { return !is_decoder() && !is_encoder(); }

  int64_t kv_heads() const {
    return num_key_value_heads > 0 ? num_key_value_heads : num_attention_heads;
  }
  int64_t heads_per_group() const {  // query heads of a key/value head
    return kv_heads() > 0 ? num_attention_heads / kv_heads() : 1;
  }
  int64_t head_size() const {
    return head_dim > 0              ? head_dim
           : num_attention_heads > 0 ? hidden_size / num_attention_heads
                                     : 0;
  }

  template <class V>
  void visit_fields(V& v) {
    v("preset", preset,
      "starting point for [model] and [moe]; see `locus list presets`; empty: none");
    v("vocab_size", vocab_size, "size of the vocabulary; 0: the tokenizer's");
    v("hidden_size", hidden_size, "width of the residual stream");
    v("num_hidden_layers", num_hidden_layers, "layers");
    v("num_encoder_layers", num_encoder_layers,
      "of the layers, so many at the beginning are an encoder's. 0: a decoder, trained to tell the "
      "next token; all: an encoder, trained to tell masked tokens; some: an encoder-decoder, "
      "trained to translate pairs");
    v("num_attention_heads", num_attention_heads, "query heads");
    v("num_key_value_heads", num_key_value_heads,
      "key/value heads (grouped-query attention); 0: as many as query heads");
    v("head_dim", head_dim, "size of a head; 0: hidden_size / num_attention_heads");
    v("intermediate_size", intermediate_size, "width of the feed-forward network of dense layers");
    v("hidden_act", hidden_act, "swiglu | gelu | gelu_new (tanh approximation)");
    v("mlp_bias", mlp_bias, "biases in feed-forward networks and experts");
    v("attention_bias", attention_bias, "biases in the q, k, v projections");
    v("attention_output_bias", attention_output_bias, "bias in the output projection of attention");
    v("qk_norm", qk_norm, "norm of queries and keys: none | head (Qwen3) | full (OLMoE)");
    v("norm_type", norm_type, "rmsnorm | layernorm, before each block and at the end");
    v("norm_eps", norm_eps, "epsilon of the norms");
    v("position_embedding_type", position_embedding_type, "rope | learned");
    v("max_position_embeddings", max_position_embeddings, "longest context");
    v("rope_theta", rope_theta, "base of the rotary frequencies");
    v("rope_scaling", rope_scaling, "none | linear | ntk | llama3");
    v("rope_scaling_factor", rope_scaling_factor, "stretch of the context under rope_scaling");
    v("rope_low_freq_factor", rope_low_freq_factor,
      "llama3: wavelengths over the original context / this are stretched in full");
    v("rope_high_freq_factor", rope_high_freq_factor,
      "llama3: wavelengths under the original context / this are left alone");
    v("rope_original_max_position_embeddings", rope_original_max_position_embeddings,
      "llama3: context before the stretch");
    v("tie_word_embeddings", tie_word_embeddings, "the output projection is the embedding");
    v("hidden_dropout", hidden_dropout,
      "dropout on the output of attention and feed-forward blocks");
    v("embedding_dropout", embedding_dropout, "dropout on the embeddings");
    v("initializer_range", initializer_range, "standard deviation of the initial weights");
    v("residual_init_scaling", residual_init_scaling,
      "output projections start at initializer_range / sqrt(2 * num_hidden_layers)");
    v("num_key_value_heads_per_layer", num_key_value_heads_per_layer,
      "key/value heads of each layer's self-attention, each with its query heads, where layers "
      "were cut (`locus extract`); 0: no self-attention; empty: num_key_value_heads");
    v("num_cross_key_value_heads_per_layer", num_cross_key_value_heads_per_layer,
      "the same of attention to the encoder's text");
    v("intermediate_size_per_layer", intermediate_size_per_layer,
      "width of each layer's feed-forward network, or of its experts, where layers were cut; 0: "
      "no feed-forward branch; empty: intermediate_size");
  }
};

}  // namespace locus::model
