#include "locus/eval/sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "locus/base/error.h"
#include "locus/base/random.h"

namespace locus::eval {
namespace {

constexpr double kImpossible = -std::numeric_limits<double>::infinity();

// A token with its logit, later its unnormalised probability.
struct Entry {
  int32_t id;
  double value;
};

// Better first: a higher value, among equal ones the lower id.
bool is_better(const Entry& a, const Entry& b) {
  return a.value != b.value ? a.value > b.value : a.id < b.id;
}

bool is_worse(const Entry& a, const Entry& b) { return is_better(b, a); }

void check_options(const SamplerOptions& options) {
  std::string problems;
  const auto check = [&problems](bool ok, const std::string& problem) {
    if (!ok) problems += (problems.empty() ? "" : "\n") + problem;
  };
  check(options.temperature >= 0 && std::isfinite(options.temperature),
        format("temperature = {}: must be 0 (greedy) or more", options.temperature));
  check(options.top_k >= 0, format("top_k = {}: must be 0 (off) or more", options.top_k));
  check(options.top_p > 0 && options.top_p <= 1,
        format("top_p = {}: must be above 0 and at most 1 (off)", options.top_p));
  check(options.repetition_penalty > 0 && std::isfinite(options.repetition_penalty),
        format("repetition_penalty = {}: must be above 0; 1 is off", options.repetition_penalty));
  if (!problems.empty()) throw ConfigError("{}", problems);
}

// All tokens with their logits, penalty applied. -infinity stands for a token that cannot come.
std::vector<Entry> penalized(std::span<const float> logits, std::span<const int32_t> text,
                             double penalty) {
  std::vector<Entry> entries(logits.size());
  bool any_finite = false;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i]) || logits[i] == std::numeric_limits<float>::infinity()) {
      throw DivergedError("the model's output is not finite: the logit of token {} is {}", i,
                          logits[i]);
    }
    any_finite |= std::isfinite(logits[i]);
    entries[i] = {static_cast<int32_t>(i), logits[i]};
  }
  if (!any_finite) throw DivergedError("the model's output is not finite: no token is possible");
  if (penalty == 1.0) return entries;
  std::vector<bool> seen(logits.size(), false);
  for (const int32_t id : text) {
    const auto index = static_cast<size_t>(id);
    if (index >= seen.size() || seen[index]) continue;  // once, however often it came
    seen[index] = true;
    double& value = entries[index].value;
    value = value < 0 ? value * penalty : value / penalty;
  }
  return entries;
}

void keep_top_k(std::vector<Entry>& entries, int64_t k) {
  if (k == 0 || k >= static_cast<int64_t>(entries.size())) return;
  std::nth_element(entries.begin(), entries.begin() + (k - 1), entries.end(), is_better);
  entries.resize(static_cast<size_t>(k));
}

// Logits to exp(logit / temperature), the best one 1: no overflow.
void to_weights(std::vector<Entry>& entries, double temperature) {
  const double best = std::min_element(entries.begin(), entries.end(), is_better)->value;
  for (Entry& entry : entries) {
    entry.value = entry.value == kImpossible ? 0 : std::exp((entry.value - best) / temperature);
  }
}

double sum_of(const std::vector<Entry>& entries) {
  double sum = 0;
  for (const Entry& entry : entries) sum += entry.value;
  return sum;
}

// The fewest best tokens whose share reaches p. A heap: few of many tokens have to be sorted.
void keep_top_p(std::vector<Entry>& entries, double p) {
  if (p >= 1.0) return;
  const double wanted = p * sum_of(entries);
  std::make_heap(entries.begin(), entries.end(), is_worse);
  double kept = 0;
  auto heap_end = entries.end();
  while (heap_end != entries.begin() && kept < wanted) {
    std::pop_heap(entries.begin(), heap_end, is_worse);
    kept += (--heap_end)->value;
  }
  entries.erase(entries.begin(), heap_end);
}

}  // namespace

Sampler::Sampler(const SamplerOptions& options) : options_(options) { check_options(options); }

std::vector<Sampler::Candidate> Sampler::candidates(std::span<const float> logits,
                                                    std::span<const int32_t> text) const {
  std::vector<Entry> entries = penalized(logits, text, options_.repetition_penalty);
  if (options_.temperature == 0) {
    return {{std::min_element(entries.begin(), entries.end(), is_better)->id, 1.0}};
  }
  keep_top_k(entries, options_.top_k);
  to_weights(entries, options_.temperature);
  keep_top_p(entries, options_.top_p);
  std::erase_if(entries, [](const Entry& entry) { return entry.value == 0; });
  std::sort(entries.begin(), entries.end(),
            [](const Entry& a, const Entry& b) { return a.id < b.id; });
  const double sum = sum_of(entries);
  std::vector<Candidate> candidates;
  candidates.reserve(entries.size());
  for (const Entry& entry : entries) candidates.push_back({entry.id, entry.value / sum});
  return candidates;
}

int32_t Sampler::sample(std::span<const float> logits, std::span<const int32_t> text,
                        uint64_t prompt, uint64_t position) const {
  const std::vector<Candidate> choice = candidates(logits, text);
  const uint64_t key = random_key({options_.seed, name_key("generate"), prompt});
  double left = random_uniform(key, position);
  for (const Candidate& candidate : choice) {
    left -= candidate.probability;
    if (left < 0) return candidate.id;
  }
  return choice.back().id;  // the shares add up to a little less than 1
}

}  // namespace locus::eval
