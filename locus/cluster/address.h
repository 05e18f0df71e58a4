// Which of its addresses a machine is reached at.
#pragma once

#include <cstdint>
#include <string>

namespace locus::cluster {

// The address of this machine on the way to host:port, as text; nothing is sent. CommError when the
// name cannot be resolved or there is no way.
std::string address_towards(const std::string& host, int64_t port);

}  // namespace locus::cluster
