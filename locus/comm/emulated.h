// A cluster on one machine, without root: one more group around that of a real transport, which
// adds to every operation the time that links between (and within) nodes would take. The nodes are
// `comm.emulate.nodes` equal blocks of ranks; comm/emulated_links.h has the model.
//
// An operation starts at once on the real transport, and is done when it is done there and the
// emulated links have carried it: what is computed meanwhile hides it, as on a cluster. Waiting
// sleeps. Each rank reckons with its own links and its own start: one that enters late delays its
// peers until its data is there, and not by the time of the links again.
#pragma once

#include <memory>
#include <string>

#include "locus/comm/config.h"
#include "locus/comm/process_group.h"

namespace locus::comm {

// The name of the emulated node of a rank: "node0", ... ConfigError where `nodes` does not divide
// the ranks.
std::string emulated_host(const EmulateConfig& config, int64_t rank, int64_t world_size);

// `real` as it is where config.nodes is 0. ConfigError as above.
std::shared_ptr<Transport> make_emulated_transport(std::shared_ptr<Transport> real,
                                                   const EmulateConfig& config);

}  // namespace locus::comm
