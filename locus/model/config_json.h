// Hugging Face's config.json, both ways. docs/formats/model_folder.md.
//
// What the family has no key for stands in an object of our own, "locus", that transformers passes
// over: settings as TOML lines. So a folder that Locus wrote gives back exactly what was saved.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "locus/model/family.h"
#include "locus/model/shape.h"

namespace locus::model {

struct TokenIds {
  std::optional<int64_t> bos, eos, pad;
};

struct ConfigJson {
  Shape shape;
  const FamilyEntry* family = nullptr;
  std::string text;  // the file as it was
};

// `dtype`: of the weights, float32 | bfloat16 | float16.
std::string write_config_json(const Shape& shape, const TokenIds& ids, const std::string& dtype);

// Its bos, eos and pad alone.
std::string write_generation_config(const TokenIds& ids);

// `source` names the text. DataError for what is not a config.json, an architecture that Locus does
// not know (with the nearest it does), and each feature that it does not compute. Keys that it has
// never heard of are named in a warning.
ConfigJson parse_config_json(const std::string& text, const std::string& source);

// <folder>/config.json, as above.
ConfigJson read_config_json(const std::filesystem::path& folder);

// The same text with another dtype.
std::string with_dtype(const std::string& config_json, const std::string& dtype);

// What transformers computes otherwise, or not at all, when it loads this model: one line, empty
// when nothing is lost.
std::string lost_in_transformers(const Shape& shape);

}  // namespace locus::model
