// Model families: public architectures whose shape a transformer can take. A family knows its
// presets and under which names Hugging Face stores its tensors.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "locus/model/config_keys.h"

namespace locus::model {

// One stored tensor as a part of one of our parameters: the expert-th matrix (-1: the parameter has
// no expert dimension), of it rows begin .. begin + rows (rows -1: all), transposed if so.
struct TensorSlice {
  std::string name;       // Hugging Face's
  std::string parameter;  // ours, as Transformer::named_parameters() says it
  int64_t expert = -1;
  int64_t row_begin = 0;
  int64_t rows = -1;
  bool transposed = false;
};

struct Preset {
  std::string_view name;
  std::string_view summary;
  std::string_view toml;  // [model] and [moe] settings
};

// How transformers lays out the experts in a file.
enum class ExpertLayout {
  kEach,   // a tensor for each expert's matrix: what it writes, and Locus
  kFused,  // one for all, as transformers 5 holds them in memory
};

struct FamilyEntry {
  std::string_view name;
  std::string_view model_type;    // Hugging Face's
  std::string_view architecture;  // class of transformers; of `locus` and deepseek, none there
  std::string_view summary;
  std::span<const Preset> presets;
  // Whether the family can hold this shape.
  bool (*holds)(const ModelConfig&, const moe::MoeConfig&);
  // All stored tensors; together they cover the parameters the family knows of.
  std::vector<TensorSlice> (*tensors)(const ModelConfig&, const moe::MoeConfig&, ExpertLayout);
  // Its config.json.
  void (*keys)(ConfigKeys&, Shape&);
  bool in_transformers;
};

std::span<const FamilyEntry> family_entries();

// The first family that holds the shape; the last entry, `locus`, holds every shape.
const FamilyEntry& closest_family(const ModelConfig& model, const moe::MoeConfig& moe);

// ConfigError that lists the known names when there is no such preset.
const Preset& find_preset(std::string_view name);

}  // namespace locus::model
