// Settings of the mixture-of-experts layers, [moe] and [moe.router].
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace locus::moe {

struct RouterConfig {
  std::string type = "top_k";
  int64_t top_k = 2;
  double capacity_factor = 0.0;
  std::string drop_policy = "probs";
  double aux_loss_coeff = 0.01;
  std::string aux_loss_scope = "micro_batch";
  double z_loss_coeff = 0.0;
  std::vector<int64_t> top_k_per_layer;

  template <class V>
  void visit_fields(V& v) {
    v("type", type, "router; see `locus list routers`");
    v("top_k", top_k, "experts per token, where the router leaves it open");
    v("capacity_factor", capacity_factor,
      "most tokens of an expert: ceil(factor * tokens * k / experts) per micro-batch; 0: dropless");
    v("drop_policy", drop_policy,
      "who is dropped above capacity: probs (lowest weight) | position (last) | random");
    v("aux_loss_coeff", aux_loss_coeff, "weight of the load-balancing loss");
    v("aux_loss_scope", aux_loss_scope,
      "tokens that the load is balanced over: micro_batch | sequence | global_batch");
    v("z_loss_coeff", z_loss_coeff, "weight of the router z-loss, mean of logsumexp(logits)^2");
    v("top_k_per_layer", top_k_per_layer,
      "top_k of each layer, where layers were cut (`locus extract`); empty: top_k");
  }
};

struct MoeConfig {
  int64_t num_experts = 8;
  int64_t intermediate_size = 512;
  int64_t layer_freq = 1;
  std::vector<int64_t> layers;
  int64_t shared_expert_intermediate_size = 0;
  bool shared_expert_gate = false;
  std::string shared_expert_scope = "all";
  std::string experts = "grouped";
  int64_t num_domain_groups = 0;
  std::vector<std::string> domain_groups;
  std::vector<std::string> experts_per_layer;
  RouterConfig router;

  template <class V>
  void visit_fields(V& v) {
    v("num_experts", num_experts, "experts of each MoE layer; 0: a dense model");
    v("intermediate_size", intermediate_size, "width of one expert's feed-forward network");
    v("layer_freq", layer_freq, "every n-th layer is a MoE layer: layer i where (i + 1) % n == 0");
    v("layers", layers, "MoE layers by number from 0; overrides layer_freq");
    v("shared_expert_intermediate_size", shared_expert_intermediate_size,
      "width of an expert that needs no router; 0: none");
    v("shared_expert_gate", shared_expert_gate,
      "scale the shared expert by a learned sigmoid gate");
    v("shared_expert_scope", shared_expert_scope,
      "tokens that the shared expert computes: all | unclaimed (those that no expert took)");
    v("experts", experts, "expert kernel; see `locus list experts`");
    v("num_domain_groups", num_domain_groups,
      "shares the training data's domains out over so many equal groups of experts: a token's "
      "experts come from its domain's group; 0: domain_groups says it");
    v("domain_groups", domain_groups,
      "experts of each domain, as [\"python = 0-3\", \"manuals = 4-7\"]; empty: any expert");
    v("experts_per_layer", experts_per_layer,
      "experts that are left of each layer's num_experts, as \"0-3, 6\", where layers were cut "
      "(`locus extract`); \"\": all; empty: all everywhere");
    v("router", router, "");
  }
};

}  // namespace locus::moe
