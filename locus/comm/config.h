// Settings of running on many ranks: [parallel] and [comm].
#pragma once

#include <cstdint>
#include <string>

namespace locus::comm {

struct ParallelConfig {
  int64_t expert_model_parallel_size = 1;
  std::string ep_placement = "within_node";

  template <class V>
  void visit_fields(V& v) {
    v("expert_model_parallel_size", expert_model_parallel_size,
      "ranks that share the experts of a layer; divides the experts and the ranks");
    v("ep_placement", ep_placement,
      "which ranks share experts: within_node (neighbours) | across_nodes (one of each node)");
  }
};

struct CommConfig {
  std::string backend = "auto";
  double timeout_s = 600.0;

  template <class V>
  void visit_fields(V& v) {
    v("backend", backend,
      "auto | gloo | mpi | nccl; auto: nccl on GPUs, mpi under mpirun where the program has it, "
      "else gloo");
    v("timeout_s", timeout_s, "a collective that takes longer ends the run with exit code 4");
  }
};

}  // namespace locus::comm
