#include "locus/compare/variants.h"

#include <algorithm>
#include <set>

#include "locus/base/error.h"
#include "locus/base/hash.h"

namespace locus::compare {
namespace {

// At spaces outside of quotes and brackets.
std::vector<std::string> words_of(const std::string& text) {
  std::vector<std::string> words;
  std::string word;
  int depth = 0;
  bool quoted = false;
  for (const char c : text) {
    if (c == '"') quoted = !quoted;
    if (!quoted) depth += (c == '[') - (c == ']');
    if (c == ' ' && depth == 0 && !quoted) {
      if (!word.empty()) words.push_back(word);
      word.clear();
    } else {
      word += c;
    }
  }
  if (!word.empty()) words.push_back(word);
  return words;
}

bool is_setting(const std::string& word) {
  const size_t equals = word.find('=');
  return equals != std::string::npos && equals > 0 && equals + 1 < word.size();
}

// As part of a path.
std::string as_file_name(const std::string& name) {
  std::string out;
  for (const char c : name) {
    const bool is_plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                          (c >= '0' && c <= '9') || c == '.' || c == '-' || c == '_';
    out += is_plain ? c : '_';
  }
  return out;
}

}  // namespace

std::vector<Variant> parse_variants(const CompareConfig& config) {
  std::string problems;
  const auto add = [&problems](const std::string& problem) {
    problems += (problems.empty() ? "" : "\n") + problem;
  };
  if (config.config.empty()) add("compare.config must name a settings file");
  if (config.seeds.empty()) add("compare.seeds names no seed");
  if (std::set<int64_t>(config.seeds.begin(), config.seeds.end()).size() != config.seeds.size()) {
    add("compare.seeds names a seed twice");
  }
  if (config.jobs < 1) add(format("compare.jobs = {} must be positive", config.jobs));
  if (config.output_dir.empty()) add("compare.output_dir must name a folder");
  const std::vector<std::string> axes{"steps", "flops", "wall_time", "active_parameters"};
  if (std::find(axes.begin(), axes.end(), config.equal) == axes.end()) {
    add(
        format("compare.equal = \"{}\" is not known; one of steps, flops, wall_time, "
               "active_parameters",
               config.equal));
  }
  if (config.variants.size() < 2) add("compare.variants names fewer than two");
  std::vector<Variant> variants;
  std::set<std::string> names;
  for (const std::string& text : config.variants) {
    const size_t colon = text.find(':');
    Variant variant{text.substr(0, colon),
                    words_of(colon == std::string::npos ? "" : text.substr(colon + 1))};
    if (colon == std::string::npos || variant.name.empty()) {
      add(format("compare.variants: \"{}\" is not of the form \"name: key=value key=value\"",
                 text));
    }
    for (const std::string& word : variant.settings) {
      if (!is_setting(word)) {
        add(format("compare.variants: {}: \"{}\" is not of the form key=value", variant.name,
                   word));
      }
    }
    if (!names.insert(as_file_name(variant.name)).second) {
      add(format("compare.variants: two of them are called \"{}\"", variant.name));
    }
    variants.push_back(std::move(variant));
  }
  for (const std::string& word : config.settings) {
    if (!is_setting(word))
      add(format("compare.settings: \"{}\" is not of the form key=value", word));
  }
  if (!problems.empty()) throw ConfigError("{}", problems);
  return variants;
}

Job make_job(const CompareConfig& config, const std::string& base, const Variant& variant,
             int64_t seed, const std::vector<std::string>& more) {
  Job job{.variant = variant.name, .seed = seed, .settings = config.settings, .folder = ""};
  job.settings.insert(job.settings.end(), variant.settings.begin(), variant.settings.end());
  job.settings.insert(job.settings.end(), more.begin(), more.end());
  job.settings.push_back(format("train.seed={}", seed));
  std::string identity = base;
  for (const std::string& setting : job.settings) identity += "\n" + setting;
  job.folder = format("{}/{}-{}-{}", config.output_dir, as_file_name(variant.name), seed,
                      to_hex(hash128(identity)).substr(0, 8));
  job.settings.push_back("train.output_dir=" + job.folder);
  return job;
}

}  // namespace locus::compare
