// Routes 16 random tokens to 4 experts: a router of Locus in a program of its own.
#include <ATen/ATen.h>

#include <iostream>

#include "locus/moe/router.h"

int main() {
  locus::moe::RouterConfig config;
  config.type = "switch";
  const locus::moe::RouterEntry& entry = locus::moe::find_router(config.type);
  const auto router = entry.make(config, {.hidden_size = 8, .num_experts = 4}, entry.options());

  const locus::moe::TokenContext tokens{.global_index_T = at::arange(16)};
  const locus::moe::Routing routing = router->route(at::randn({16, 8}), tokens);
  std::cout << routing.assignment.token_N.size(0) << " of 16 tokens went to an expert\n"
            << "tokens per expert:" << at::bincount(routing.assignment.expert_N, {}, 4) << '\n';
}
