// Which of its addresses a machine is reached at.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace locus::cluster {

// The address of this machine on the way to host:port, as text; nothing is sent. CommError when the
// name cannot be resolved or there is no way.
std::string address_towards(const std::string& host, int64_t port);

// All addresses of this machine that other machines may reach, as texts.
std::vector<std::string> own_addresses();

// The first of a machine's addresses at which somebody listens on the port, tried in turns.
// CommError that names them all after `timeout_s`.
std::string first_to_answer(const std::vector<std::string>& addresses, int64_t port,
                            double timeout_s);

}  // namespace locus::cluster
