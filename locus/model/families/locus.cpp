// Every shape that no public family holds, under Llama-like names.

#include "locus/model/llama_names.h"

namespace locus::model {
namespace {

bool holds(const ModelConfig& /*model*/, const moe::MoeConfig& /*moe*/) { return true; }

std::vector<TensorSlice> tensors(const ModelConfig& model, const moe::MoeConfig& moe,
                                 ExpertLayout layout) {
  return llama_tensors(model, moe, {.layout = layout});
}

// The words that all families share; the rest stands in config.json's object "locus".
void keys(ConfigKeys& keys, Shape& shape) {
  ModelConfig& model = shape.model;
  keys.value("vocab_size", &model.vocab_size);
  keys.value("hidden_size", &model.hidden_size);
  keys.value("num_hidden_layers", &model.num_hidden_layers);
  keys.value("num_attention_heads", &model.num_attention_heads);
  keys.value("num_key_value_heads", &model.num_key_value_heads);
  keys.value("head_dim", &model.head_dim);
  keys.value("intermediate_size", &model.intermediate_size);
  keys.value("max_position_embeddings", &model.max_position_embeddings);
  keys.value("tie_word_embeddings", &model.tie_word_embeddings);
  keys.value("num_experts", &shape.moe.num_experts);
}

}  // namespace

extern const FamilyEntry kLocusFamily;
const FamilyEntry kLocusFamily{.name = "locus",
                               .model_type = "locus",
                               .architecture = "LocusForCausalLM",
                               .summary = "any other shape, Llama-like names",
                               .presets = {},
                               .holds = holds,
                               .tensors = tensors,
                               .keys = keys,
                               .in_transformers = false};

}  // namespace locus::model
