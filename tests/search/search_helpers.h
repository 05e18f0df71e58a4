// What the tests of search share: tiny models with every kind of unit, and batches for them.
#pragma once

#include <ATen/ATen.h>
#include <torch/nn/module.h>

#include <memory>
#include <string>

#include "locus/base/random.h"
#include "locus/base/toml.h"
#include "locus/model/transformer.h"
#include "locus/moe/router.h"
#include "locus/search/arch_space.h"
#include "locus/train/train_step.h"

namespace locus::search {

enum class Kind { kDecoder, kEncoder, kEncoderDecoder };

inline std::string kind_name(Kind kind) {
  return kind == Kind::kDecoder ? "decoder" : kind == Kind::kEncoder ? "encoder" : "both";
}

// 2 of 6 experts, 4 query heads on 2 key/value heads, a dense layer among those with experts.
inline model::TransformerConfig tiny_config(const std::string& router, Kind kind = Kind::kDecoder,
                                            const std::string& options = "") {
  model::TransformerConfig config;
  model::ModelConfig& model = config.model;
  model.vocab_size = 37;
  model.hidden_size = 36;
  model.num_hidden_layers = 4;
  model.num_encoder_layers = kind == Kind::kDecoder ? 0 : kind == Kind::kEncoder ? 4 : 2;
  model.num_attention_heads = 6;
  model.num_key_value_heads = 3;
  model.head_dim = 6;
  model.intermediate_size = 40;
  model.attention_bias = model.attention_output_bias = model.mlp_bias = true;
  model.norm_type = "layernorm";
  model.max_position_embeddings = 32;
  config.moe.num_experts = 6;
  config.moe.intermediate_size = 24;
  config.moe.layers = {0, 2, 3};
  config.moe.router.type = router;
  config.moe.router.top_k = 2;
  config.router_options = moe::find_router(router).options();
  read_toml("test", options, {}, config.router_options.fields());
  config.token_frequency.assign(static_cast<size_t>(model.vocab_size), 1);
  config.seed = 11;
  return config;
}

// Values alone: Module::to() would turn whole numbers into this type, too.
inline void to_double(model::Transformer& transformer) {
  for (auto tensors : {transformer.parameters(), transformer.buffers()}) {
    for (at::Tensor& tensor : tensors) {
      if (at::isFloatingType(tensor.scalar_type())) tensor.set_data(tensor.to(at::kDouble));
    }
  }
}

// Its weights are drawn anew, wide enough that every part of it matters.
inline std::shared_ptr<model::Transformer> make_model(const model::TransformerConfig& config,
                                                      bool in_double = false) {
  auto transformer = std::make_shared<model::Transformer>(config);
  const at::NoGradGuard no_grad;
  auto generator = at::detail::createCPUGenerator(3);
  for (const auto& [name, parameter] : train::named_parameters(*transformer)) {
    const bool is_scale = name.ends_with("norm.weight");
    parameter.normal_(is_scale ? 1.0 : 0.0, is_scale ? 0.2 : 0.3, generator);
  }
  if (in_double) to_double(*transformer);
  return transformer;
}

inline model::TransformerInput random_input(const model::TransformerConfig& config,
                                            uint64_t seed = 1) {
  model::TransformerInput in;
  auto generator = at::detail::createCPUGenerator(seed);
  in.input_ids_BS = at::randint(config.model.vocab_size, {3, 10}, generator, at::kLong);
  in.position_ids_BS = at::arange(10, at::kLong).expand({3, 10});
  if (config.model.is_encoder_decoder()) {
    in.source_ids_BL = at::randint(config.model.vocab_size, {3, 7}, generator, at::kLong);
    in.source_position_ids_BL = at::arange(7, at::kLong).expand({3, 7});
  }
  return in;
}

// A mask that floors allow, by draws of `seed`: about `share` of the units stay.
inline Mask random_mask(const ArchSpace& space, uint64_t seed, double share) {
  Mask mask = space.all();
  for (int round = 0; round < 3; ++round) {
    for (size_t unit = mask.size(); unit-- > 0;) {
      const uint64_t draw = random_key({seed, static_cast<uint64_t>(round), unit});
      const bool drops = static_cast<double>(draw >> 11) * 0x1p-53 > share;
      if (drops && space.can_drop(mask, unit)) {
        mask[unit] = 0;
        mask = space.active(mask);
      }
    }
  }
  return mask;
}

}  // namespace locus::search
