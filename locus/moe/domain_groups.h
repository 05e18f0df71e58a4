// Two-level routing by domain (LocMoE, section 3; PanGu-Sigma's "random routed experts"): level 1
// sends a token to the experts of its document's domain, level 2, the router, picks among those.
// Neighbouring experts lie on one node, and so a domain's tokens can stay where its experts are.
//
// E experts, G domains that own a group.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "locus/moe/config.h"

namespace locus::moe {

struct DomainGroup {
  std::string domain;
  std::vector<int64_t> experts;  // rising
};

// moe.domain_groups in its order, each text as "python = 0-3" or "manuals = 4, 6-7". ConfigError
// for a text that cannot be read; domain_group_problems() says what else is wrong.
std::vector<DomainGroup> parse_domain_groups(const std::vector<std::string>& texts);

// One text per problem; empty: none, or no groups. What only the data tell is not looked at.
std::vector<std::string> domain_group_problems(const MoeConfig& config);

// The domains shared out over moe.num_domain_groups equal groups of neighbouring experts, as texts
// for moe.domain_groups: the largest domain first, each to the group with the fewest tokens.
// `domains`: names and their tokens.
std::vector<std::string> deal_domains(const std::vector<std::pair<std::string, int64_t>>& domains,
                                      int64_t num_groups, int64_t num_experts);

// bool [G, E]: which experts each group has. Undefined without groups.
at::Tensor allowed_experts(const MoeConfig& config);

}  // namespace locus::moe
