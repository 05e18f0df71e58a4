// Settings of running on many ranks: [parallel] and [comm].
#pragma once

#include <cstdint>
#include <string>

namespace locus::comm {

// How token rows travel to the ranks of their experts and back: moe/exchange.h.
struct ExchangeConfig {
  std::string type = "auto";
  int64_t chunks = 0;
  std::string wire_dtype = "auto";

  template <class V>
  void visit_fields(V& v) {
    v("type", type,
      "auto (by topology and sizes) | an exchange of `locus list exchanges`: flat, hierarchical, "
      "dedup");
    v("chunks", chunks,
      "parts of a layer's tokens whose way and computation overlap; 0: chosen with the type");
    v("wire_dtype", wire_dtype,
      "type of the rows on their way: auto (that which computes) | float32 | bfloat16");
  }
};

struct ParallelConfig {
  int64_t expert_model_parallel_size = 1;
  std::string ep_placement = "within_node";
  int64_t ranks_per_node = 0;
  bool use_distributed_optimizer = false;
  bool place_sequences = false;
  int64_t place_experts_interval = 0;
  ExchangeConfig exchange = {};

  template <class V>
  void visit_fields(V& v) {
    v("expert_model_parallel_size", expert_model_parallel_size,
      "ranks that share the experts of a layer; divides the experts and the ranks");
    v("ep_placement", ep_placement,
      "which ranks share experts: within_node (neighbours) | across_nodes (one of each node)");
    v("ranks_per_node", ranks_per_node,
      "neighbouring ranks that count as one node; 0: by the names of their hosts");
    v("use_distributed_optimizer", use_distributed_optimizer,
      "each rank keeps the optimiser's state of a part of every parameter (ZeRO-1): less memory");
    v("place_sequences", place_sequences,
      "within a global batch, sequences go to the ranks near the experts that their domains use: "
      "the same model, fewer bytes between nodes");
    v("place_experts_interval", place_experts_interval,
      "after so many steps, experts move to the nodes of their tokens, where that saves more bytes "
      "in as many steps than it costs; 0: they stay");
    v("exchange", exchange, "");
  }
};

// Links that this machine does not have: comm/emulated.h.
struct EmulateConfig {
  int64_t nodes = 0;
  double latency_us = 0.0, gbit_per_s = 0.0;
  double intra_latency_us = 0.0, intra_gbit_per_s = 0.0;

  template <class V>
  void visit_fields(V& v) {
    v("nodes", nodes,
      "nodes that the ranks of one machine are dealt to in equal blocks; 0: no emulation");
    v("latency_us", latency_us, "of a message between nodes, in microseconds");
    v("gbit_per_s", gbit_per_s,
      "of a rank's link to the other nodes, each way, in Gbit/s; 0: takes no time");
    v("intra_latency_us", intra_latency_us, "of a message within a node, in microseconds");
    v("intra_gbit_per_s", intra_gbit_per_s,
      "of a rank's link within its node, each way, in Gbit/s; 0: takes no time");
  }
};

struct CommConfig {
  std::string backend = "auto";
  double timeout_s = 600.0;
  std::string topology;
  EmulateConfig emulate = {};

  template <class V>
  void visit_fields(V& v) {
    v("backend", backend,
      "auto | gloo | mpi | nccl; auto: nccl on GPUs, mpi under mpirun where the program has it, "
      "else gloo");
    v("timeout_s", timeout_s, "a collective that takes longer ends the run with exit code 4");
    v("topology", topology,
      "file of `locus topology --output`: what the links carry, for the choice of the exchange; "
      "empty: not measured");
    v("emulate", emulate, "");
  }
};

}  // namespace locus::comm
