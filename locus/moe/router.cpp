#include "locus/moe/router.h"

#include <algorithm>

#include "locus/base/error.h"
#include "locus/base/toml.h"

namespace locus::moe {

using RouterOptions = OptionSet();
using ValidateRouter = std::vector<std::string>(const RouterConfig&, int64_t, const OptionSet&);
using RouterParameters = std::vector<RouterParameter>(const RouterSizes&);

// Defined in routers/<name>.cpp.
MakeRouter make_top_k_router, make_switch_router, make_gshard_router, make_hash_router,
    make_expert_choice_router, make_base_layer_router, make_stablemoe_router, make_xmoe_router,
    make_dense_to_sparse_router, make_soft_router, make_locmoe_router, make_locmoe_plus_router;
RouterOptions top_k_options, switch_options, gshard_options, hash_options, expert_choice_options,
    base_layer_options, stablemoe_options, xmoe_options, dense_to_sparse_options, soft_options,
    locmoe_options, locmoe_plus_options;
ValidateRouter validate_top_k, validate_switch, validate_gshard, validate_hash,
    validate_expert_choice, validate_base_layer, validate_stablemoe, validate_xmoe,
    validate_dense_to_sparse, validate_soft, validate_locmoe, validate_locmoe_plus;
RouterParameters stablemoe_parameters, xmoe_parameters;

namespace {

std::vector<RouterParameter> no_parameters(const RouterSizes&) { return {}; }
// Logits of all experts, linear in the token.
std::vector<RouterParameter> linear_gate(const RouterSizes& sizes) {
  return {{"weight", {sizes.num_experts, sizes.hidden_size}}};
}

double one_expert(const MoeConfig&) { return 1; }
double two_experts(const MoeConfig& config) { return config.num_experts == 1 ? 1 : 2; }
double all_experts(const MoeConfig& config) { return static_cast<double>(config.num_experts); }
double top_k_experts(const MoeConfig& config) { return static_cast<double>(config.router.top_k); }
double capacity_experts(const MoeConfig& config) {
  return config.router.capacity_factor > 0 ? config.router.capacity_factor : 2;
}
double ceiling_experts(const MoeConfig& config) {
  const double named = top_k_experts(config);
  const double factor = config.router.capacity_factor;
  return factor > 0 ? std::min(factor, named) : named;
}

// The table is help text, error text, docs and test list.
constexpr RouterEntry kRouters[] = {
    {"top_k", "k best experts; OLMoE, Mixtral, Qwen3 and DeepSeek-V3 by its options",
     make_top_k_router, top_k_options, validate_top_k, top_k_experts, linear_gate, false, false},
    {"switch", "top-1 with jitter, output times its probability (Fedus et al., 2021)",
     make_switch_router, switch_options, validate_switch, one_expert, linear_gate, false, false},
    {"gshard", "top-2 with a random second expert (Lepikhin et al., 2020)", make_gshard_router,
     gshard_options, validate_gshard, two_experts, linear_gate, false, false},
    {"hash", "fixed experts by token id, nothing learned (Roller et al., 2021)", make_hash_router,
     hash_options, validate_hash, top_k_experts, no_parameters, true, false},
    {"expert_choice", "experts choose their tokens, perfect balance (Zhou et al., 2022)",
     make_expert_choice_router, expert_choice_options, validate_expert_choice, capacity_experts,
     linear_gate, false, false},
    {"base_layer", "equal loads by an auction, best expert in evaluation (Lewis et al., 2021)",
     make_base_layer_router, base_layer_options, validate_base_layer, one_expert, linear_gate,
     false, false},
    {"stablemoe", "learns the routing, distils it into token ids, freezes it (Dai et al., 2022)",
     make_stablemoe_router, stablemoe_options, validate_stablemoe, one_expert, stablemoe_parameters,
     false, false},
    {"xmoe", "cosines in a space of few dimensions (Chi et al., 2022)", make_xmoe_router,
     xmoe_options, validate_xmoe, top_k_experts, xmoe_parameters, false, false},
    {"dense_to_sparse", "all experts at first, few as the gate sharpens (EvoMoE: Nie et al., 2021)",
     make_dense_to_sparse_router, dense_to_sparse_options, validate_dense_to_sparse, top_k_experts,
     linear_gate, false, false},
    {"soft", "all experts for every token: what sparse ones are held against (Jacobs et al., 1991)",
     make_soft_router, soft_options, validate_soft, all_experts, linear_gate, false, false},
    {"locmoe", "pooled gate without weights, tokens stay near (Li et al., 2024)",
     make_locmoe_router, locmoe_options, validate_locmoe, top_k_experts, no_parameters, false,
     true},
    {"locmoe_plus", "tokens and experts choose each other, fewer tokens over time (2024)",
     make_locmoe_plus_router, locmoe_plus_options, validate_locmoe_plus, ceiling_experts,
     no_parameters, false, true},
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

std::vector<int64_t> Router::kept_rows(const Router& whole) const {
  const std::vector<int64_t>& before = whole.context_.kept_experts;
  std::vector<int64_t> rows;
  for (int64_t i = 0; i < context_.num_experts; ++i) {
    const int64_t number =
        context_.kept_experts.empty() ? i : context_.kept_experts[static_cast<size_t>(i)];
    const auto found = std::find(before.begin(), before.end(), number);
    LOCUS_CHECK(before.empty() || found != before.end(), "expert {} was cut before", number);
    rows.push_back(before.empty() ? number : found - before.begin());
  }
  return rows;
}

void Router::cut_from(const Router& whole) {
  const at::NoGradGuard no_grad;
  const at::Tensor rows = at::tensor(kept_rows(whole), at::kLong);
  const auto take = [&](const std::string& name, const at::Tensor& own, const at::Tensor& all) {
    if (own.sizes() == all.sizes()) {
      own.copy_(all);
      return;
    }
    LOCUS_CHECK(own.dim() > 0 && all.size(0) == whole.context_.num_experts,
                "{} has no row for each expert", name);
    own.copy_(all.index_select(0, rows.to(all.device())));
  };
  const auto parameters = whole.named_parameters();
  for (const auto& item : named_parameters())
    take(item.key(), item.value(), parameters[item.key()]);
  const auto buffers = whole.named_buffers();
  for (const auto& item : named_buffers()) take(item.key(), item.value(), buffers[item.key()]);
}

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
