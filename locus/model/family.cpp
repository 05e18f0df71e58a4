#include "locus/model/family.h"

#include "locus/base/error.h"
#include "locus/base/toml.h"

namespace locus::model {

extern const FamilyEntry kGpt2Family, kLlamaFamily, kMixtralFamily, kOlmoeFamily, kQwen3MoeFamily,
    kDeepseekMoeFamily, kLocusFamily;

std::span<const FamilyEntry> family_entries() {
  static const FamilyEntry entries[] = {kGpt2Family,  kLlamaFamily,    kMixtralFamily,
                                        kOlmoeFamily, kQwen3MoeFamily, kDeepseekMoeFamily,
                                        kLocusFamily};
  return entries;
}

const FamilyEntry& closest_family(const ModelConfig& model, const moe::MoeConfig& moe) {
  for (const FamilyEntry& family : family_entries()) {
    if (family.holds(model, moe)) return family;
  }
  LOCUS_CHECK(false, "the last family holds every shape");
  return family_entries().back();
}

const Preset& find_preset(std::string_view name) {
  std::vector<std::string> known;
  for (const FamilyEntry& family : family_entries()) {
    for (const Preset& preset : family.presets) {
      if (preset.name == name) return preset;
      known.emplace_back(preset.name);
    }
  }
  std::string list;
  for (const std::string& one : known) list += (list.empty() ? "" : ", ") + one;
  throw ConfigError("model.preset = \"{}\" is not a preset; known: {}", name, list);
}

}  // namespace locus::model
