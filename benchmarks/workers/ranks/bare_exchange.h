// Exchanges by the transports' libraries themselves, without any code of ours.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <string>

#include "locus/cluster/launch.h"

namespace locus::benchmarks {

// Blocks. x [R * n]: n elements to each rank, in order, and from each; bytes.
using BareExchange = std::function<void(const at::Tensor& out, const at::Tensor& in)>;

struct BareLibrary {
  std::string call;     // for people
  std::string version;  // empty: libtorch's
  BareExchange exchange;
};

// c10d's ProcessGroupGloo. Our ranks are connected already, and their store is still served.
BareLibrary make_bare_gloo(const cluster::Launch& launch);

// MPI_Alltoallv of all ranks. Our transport has started MPI, and has nothing in flight.
BareLibrary make_bare_mpi();

}  // namespace locus::benchmarks
