#include "locus/moe/router.h"

#include <algorithm>

#include "locus/base/error.h"
#include "locus/base/toml.h"

namespace locus::moe {

using RouterOptions = OptionSet();
using ValidateRouter = std::vector<std::string>(const RouterConfig&, int64_t, const OptionSet&);

// Defined in routers/<name>.cpp.
MakeRouter make_top_k_router, make_switch_router, make_gshard_router, make_hash_router,
    make_expert_choice_router, make_locmoe_router, make_locmoe_plus_router;
RouterOptions top_k_options, switch_options, gshard_options, hash_options, expert_choice_options,
    locmoe_options, locmoe_plus_options;
ValidateRouter validate_top_k, validate_switch, validate_gshard, validate_hash,
    validate_expert_choice, validate_locmoe, validate_locmoe_plus;

namespace {

double one_expert(const RouterConfig&) { return 1; }
double two_experts(const RouterConfig&) { return 2; }
double top_k_experts(const RouterConfig& config) { return static_cast<double>(config.top_k); }
double capacity_experts(const RouterConfig& config) {
  return config.capacity_factor > 0 ? config.capacity_factor : 2;
}
double ceiling_experts(const RouterConfig& config) {
  const auto named = static_cast<double>(config.top_k);
  return config.capacity_factor > 0 ? std::min(config.capacity_factor, named) : named;
}

// The table is help text, error text, docs and test list.
constexpr RouterEntry kRouters[] = {
    {"top_k", "k best experts; OLMoE, Mixtral, Qwen3 and DeepSeek-V3 by its options",
     make_top_k_router, top_k_options, validate_top_k, top_k_experts, true, false, false},
    {"switch", "top-1 with jitter, output times its probability (Fedus et al., 2021)",
     make_switch_router, switch_options, validate_switch, one_expert, true, false, false},
    {"gshard", "top-2 with a random second expert (Lepikhin et al., 2020)", make_gshard_router,
     gshard_options, validate_gshard, two_experts, true, false, false},
    {"hash", "fixed experts by token id, nothing learned (Roller et al., 2021)", make_hash_router,
     hash_options, validate_hash, top_k_experts, false, true, false},
    {"expert_choice", "experts choose their tokens, perfect balance (Zhou et al., 2022)",
     make_expert_choice_router, expert_choice_options, validate_expert_choice, capacity_experts,
     true, false, false},
    {"locmoe", "pooled gate without weights, tokens stay near (Li et al., 2024)",
     make_locmoe_router, locmoe_options, validate_locmoe, top_k_experts, false, false, true},
    {"locmoe_plus", "tokens and experts choose each other, fewer tokens over time (2024)",
     make_locmoe_plus_router, locmoe_plus_options, validate_locmoe_plus, ceiling_experts, false,
     false, true},
};

std::string join(const std::vector<std::string>& words, std::string_view separator) {
  std::string text;
  for (const std::string& word : words) {
    if (!text.empty()) text += separator;
    text += word;
  }
  return text;
}

}  // namespace

std::span<const RouterEntry> router_entries() { return kRouters; }

std::vector<std::string> router_names() {
  std::vector<std::string> names;
  for (const RouterEntry& entry : kRouters) names.emplace_back(entry.name);
  return names;
}

const RouterEntry& find_router(std::string_view name) {
  for (const RouterEntry& entry : kRouters) {
    if (entry.name == name) return entry;
  }
  const std::vector<std::string> names = router_names();
  const std::string near = nearest(name, names);
  const std::string hint = near.empty() ? "" : format(" (did you mean \"{}\"?)", near);
  throw ConfigError("moe.router.type = \"{}\" is not a router{}; known: {}", name, hint,
                    join(names, ", "));
}

std::shared_ptr<Router> make_router(const RouterConfig& config, const RouterContext& context,
                                    const OptionSet& options) {
  const RouterEntry& entry = find_router(config.type);
  const std::vector<std::string> problems = entry.validate(config, context.num_experts, options);
  if (!problems.empty()) throw ConfigError("{}", join(problems, "\n"));
  return entry.make(config, context, options);
}

}  // namespace locus::moe
