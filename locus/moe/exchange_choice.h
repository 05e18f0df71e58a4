// Which exchange, in how many parts: by what the links carry and what a layer has to send. A model
// of time; it assumes that tokens choose their experts evenly, or so many on their own node.
//
// E experts, R ranks of the expert-parallel group on n nodes, k experts a token.
#pragma once

#include <cstdint>
#include <string>

#include "locus/cluster/topology.h"
#include "locus/comm/parallel_context.h"

namespace locus::moe {

// Of one layer, on one rank.
struct ExchangeLoad {
  int64_t num_experts = 0;
  double top_k = 0;
  double num_tokens = 0;    // of a micro-batch
  double row_bytes = 0;     // on the wire
  double expert_flops = 0;  // of the forward pass
  double flops_per_s = 0;   // that a rank reaches; 0: unknown
  // Share of a token's experts that are on its node; 0: as many as evenly chosen ones.
  double near_share = 0;
};

struct ExchangeChoice {
  std::string type;
  int64_t chunks = 1;
  std::string reason;  // one line for the log
};

// Settings that are not "auto" or 0 stay. Links that are not measured count as the constants of
// exchange_choice.cpp.
ExchangeChoice choose_exchange(const comm::ParallelContext& parallel, const ExchangeLoad& load);

}  // namespace locus::moe
