#include "locus/cluster/address.h"

#include <netdb.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "locus/base/error.h"

namespace locus::cluster {

std::string address_towards(const std::string& host, int64_t port) {
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_DGRAM;
  addrinfo* found = nullptr;
  const int failure = ::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
  if (failure != 0) {
    throw CommError("the host {} of rank 0 cannot be resolved: {}", host, ::gai_strerror(failure));
  }
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(found, ::freeaddrinfo);
  std::string reason = "no address";
  for (const addrinfo* one = found; one != nullptr; one = one->ai_next) {
    const int socket = ::socket(one->ai_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (socket < 0) continue;
    sockaddr_storage own{};
    socklen_t size = sizeof own;
    // Connecting a datagram socket sends nothing: the system only chooses the way.
    const bool has_way = ::connect(socket, one->ai_addr, one->ai_addrlen) == 0 &&
                         ::getsockname(socket, reinterpret_cast<sockaddr*>(&own), &size) == 0;
    if (!has_way) reason = std::strerror(errno);
    ::close(socket);
    char text[NI_MAXHOST];
    if (has_way && ::getnameinfo(reinterpret_cast<sockaddr*>(&own), size, text, sizeof text,
                                 nullptr, 0, NI_NUMERICHOST) == 0) {
      return text;
    }
  }
  throw CommError("there is no way to the host {} of rank 0: {}", host, reason);
}

}  // namespace locus::cluster
