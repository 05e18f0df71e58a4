// The transport for CPUs that needs nothing but a network: Gloo, as libtorch brings it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "locus/comm/process_group.h"
#include "locus/comm/store.h"

namespace locus::comm {

struct GlooSettings {
  int64_t rank = 0, world_size = 1;
  double timeout_s = 600.0;
  // The address of this rank that the others can reach; empty: GLOO_SOCKET_IFNAME's, else that of
  // the host's name.
  std::string address;
  // Sets apart the keys of one start of the job from those of another in the same store.
  int64_t start = 0;
};

std::unique_ptr<Transport> make_gloo_transport(const GlooSettings& settings,
                                               std::shared_ptr<Store> store);

}  // namespace locus::comm
