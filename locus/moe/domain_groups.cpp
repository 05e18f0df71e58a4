#include "locus/moe/domain_groups.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>
#include <set>

#include "locus/base/error.h"
#include "locus/base/format.h"
#include "locus/moe/expert_numbers.h"

namespace locus::moe {
namespace {

constexpr const char* kForm = "\"domain = 0-3\", or \"domain = 0, 2-3\"";

DomainGroup parse_group(const std::string& text) {
  // A name may hold the sign, numbers do not.
  const size_t sign = text.rfind('=');
  if (sign != std::string::npos) {
    const std::string_view domain = trimmed(std::string_view(text).substr(0, sign));
    auto experts = parse_expert_numbers(std::string_view(text).substr(sign + 1));
    if (experts && !domain.empty()) return {std::string(domain), std::move(*experts)};
  }
  throw ConfigError("moe.domain_groups holds \"{}\"; write {}", text, kForm);
}

}  // namespace

std::vector<DomainGroup> parse_domain_groups(const std::vector<std::string>& texts) {
  std::vector<DomainGroup> groups;
  for (const std::string& text : texts) groups.push_back(parse_group(text));
  return groups;
}

std::vector<std::string> domain_group_problems(const MoeConfig& config) {
  std::vector<std::string> problems;
  const auto add = [&](auto&&... args) { problems.push_back(format(args...)); };
  const int64_t num_groups = config.num_domain_groups;
  if (num_groups < 0 || num_groups > config.num_experts ||
      (num_groups > 0 && config.num_experts % num_groups != 0)) {
    add("moe.num_domain_groups = {}: must divide moe.num_experts = {}, or be 0", num_groups,
        config.num_experts);
  } else if (num_groups > 0 && config.num_experts / num_groups < config.router.top_k) {
    add("moe.num_domain_groups = {} leaves {} experts to a domain, fewer than moe.router.top_k = "
        "{}",
        num_groups, config.num_experts / num_groups, config.router.top_k);
  }
  std::vector<DomainGroup> groups;
  try {
    groups = parse_domain_groups(config.domain_groups);
  } catch (const ConfigError& error) {
    add("{}", error.what());
    return problems;
  }
  std::set<std::string> seen;
  for (const DomainGroup& group : groups) {
    if (!seen.insert(group.domain).second) {
      add("moe.domain_groups names the domain \"{}\" twice", group.domain);
    }
    if (group.experts.back() >= config.num_experts) {
      add("moe.domain_groups gives expert {} to \"{}\"; moe.num_experts = {}, numbers begin at 0",
          group.experts.back(), group.domain, config.num_experts);
    }
    if (std::cmp_less(group.experts.size(), config.router.top_k)) {
      add("moe.domain_groups gives \"{}\" {} experts, fewer than moe.router.top_k = {}",
          group.domain, group.experts.size(), config.router.top_k);
    }
  }
  return problems;
}

std::vector<std::string> deal_domains(const std::vector<std::pair<std::string, int64_t>>& domains,
                                      int64_t num_groups, int64_t num_experts) {
  LOCUS_CHECK(num_groups > 0 && num_experts % num_groups == 0, "{} experts in {} groups",
              num_experts, num_groups);
  std::vector<size_t> by_size(domains.size());
  std::iota(by_size.begin(), by_size.end(), size_t{0});
  std::stable_sort(by_size.begin(), by_size.end(),
                   [&](size_t a, size_t b) { return domains[a].second > domains[b].second; });
  std::vector<int64_t> load(static_cast<size_t>(num_groups)), group_of(domains.size());
  for (const size_t domain : by_size) {
    const auto least = std::min_element(load.begin(), load.end());
    *least += domains[domain].second;
    group_of[domain] = least - load.begin();
  }
  const int64_t size = num_experts / num_groups;
  std::vector<std::string> texts;
  for (size_t i = 0; i < domains.size(); ++i) {
    const int64_t first = group_of[i] * size;
    texts.push_back(format("{} = {}-{}", domains[i].first, first, first + size - 1));
  }
  return texts;
}

at::Tensor allowed_experts(const MoeConfig& config) {
  if (config.domain_groups.empty()) return {};
  const std::vector<DomainGroup> groups = parse_domain_groups(config.domain_groups);
  const at::Tensor allowed_GE =
      at::zeros({static_cast<int64_t>(groups.size()), config.num_experts}, at::kBool);
  for (size_t g = 0; g < groups.size(); ++g) {
    for (const int64_t expert : groups[g].experts) {
      allowed_GE[static_cast<int64_t>(g)][expert] = true;
    }
  }
  return allowed_GE;
}

}  // namespace locus::moe
