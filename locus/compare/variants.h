// What a comparison trains.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "locus/compare/config.h"

namespace locus::compare {

struct Variant {
  std::string name;
  std::vector<std::string> settings;  // "key=value" each
};

// One training.
struct Job {
  std::string variant;
  int64_t seed = 0;
  std::vector<std::string> settings;  // all of them, train.seed and train.output_dir included
  std::string folder;                 // train.output_dir; another one for other settings
};

// ConfigError that names all that is wrong with the settings.
std::vector<Variant> parse_variants(const CompareConfig& config);

// `more`: settings of this training alone. `base`: text of the settings file.
Job make_job(const CompareConfig& config, const std::string& base, const Variant& variant,
             int64_t seed, const std::vector<std::string>& more);

}  // namespace locus::compare
