// Llama 2 and 3 (Touvron et al., 2023; Grattafiori et al., 2024): dense.

#include "locus/model/llama_names.h"

namespace locus::model {
namespace {

constexpr Preset kPresets[] = {{"llama-3.2-1b", "Llama 3.2, 1.2B parameters, dense", R"(
[model]
vocab_size = 128256
hidden_size = 2048
num_hidden_layers = 16
num_attention_heads = 32
num_key_value_heads = 8
head_dim = 64
intermediate_size = 8192
max_position_embeddings = 8192
rope_theta = 500000.0
rope_scaling = "llama3"
rope_scaling_factor = 32.0
tie_word_embeddings = true
[moe]
num_experts = 0
)"}};

bool holds(const ModelConfig& model, const moe::MoeConfig& moe) {
  return is_uniform(model, moe) && is_llama_like(model) && !has_moe_layer(model, moe) &&
         model.qk_norm == "none" && model.attention_bias == model.attention_output_bias &&
         model.num_attention_heads > 0 && model.hidden_size % model.num_attention_heads == 0;
}

std::vector<TensorSlice> tensors(const ModelConfig& model, const moe::MoeConfig& moe,
                                 ExpertLayout layout) {
  return llama_tensors(model, moe, {.layout = layout});
}

void keys(ConfigKeys& keys, Shape& shape) {
  llama_keys(keys, shape, {});
  attention_bias_key(keys, shape.model);
  keys.value("intermediate_size", &shape.model.intermediate_size);
  keys.value("mlp_bias", &shape.model.mlp_bias, "false");
  keys.only("pretraining_tp", "1");
}

}  // namespace

extern const FamilyEntry kLlamaFamily;
const FamilyEntry kLlamaFamily{.name = "llama",
                               .model_type = "llama",
                               .architecture = "LlamaForCausalLM",
                               .summary = "Llama: RMSNorm, RoPE, SwiGLU, dense",
                               .presets = kPresets,
                               .holds = holds,
                               .tensors = tensors,
                               .keys = keys,
                               .in_transformers = true};

}  // namespace locus::model
