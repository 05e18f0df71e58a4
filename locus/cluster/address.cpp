#include "locus/cluster/address.h"

#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <memory>
#include <thread>

#include "locus/base/error.h"

namespace locus::cluster {
namespace {

// Of one attempt, and between attempts.
constexpr int kConnect_ms = 1000;
constexpr std::chrono::milliseconds kPause{50};

bool is_reachable(const sockaddr* address) {
  if (address == nullptr) return false;
  if (address->sa_family == AF_INET) return true;
  return address->sa_family == AF_INET6 &&
         !IN6_IS_ADDR_LINKLOCAL(&reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr);
}

bool answers(const std::string& address, int64_t port) {
  addrinfo hints{};
  hints.ai_flags = AI_NUMERICHOST;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (::getaddrinfo(address.c_str(), std::to_string(port).c_str(), &hints, &found) != 0) {
    return false;
  }
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(found, ::freeaddrinfo);
  const int socket = ::socket(found->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (socket < 0) return false;
  bool has_answer = ::connect(socket, found->ai_addr, found->ai_addrlen) == 0;
  if (!has_answer && errno == EINPROGRESS) {
    pollfd wanted{socket, POLLOUT, 0};
    int error = 0;
    socklen_t size = sizeof error;
    has_answer = ::poll(&wanted, 1, kConnect_ms) == 1 &&
                 ::getsockopt(socket, SOL_SOCKET, SO_ERROR, &error, &size) == 0 && error == 0;
  }
  ::close(socket);
  return has_answer;
}

}  // namespace

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

std::vector<std::string> own_addresses() {
  ifaddrs* first = nullptr;
  if (::getifaddrs(&first) != 0) {
    throw CommError("the addresses of this machine cannot be read: {}", std::strerror(errno));
  }
  const std::unique_ptr<ifaddrs, void (*)(ifaddrs*)> owner(first, ::freeifaddrs);
  std::vector<std::string> addresses;
  for (const ifaddrs* one = first; one != nullptr; one = one->ifa_next) {
    const bool is_up = (one->ifa_flags & IFF_UP) != 0 && (one->ifa_flags & IFF_LOOPBACK) == 0;
    if (!is_up || !is_reachable(one->ifa_addr)) continue;
    const socklen_t size =
        one->ifa_addr->sa_family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6);
    char text[NI_MAXHOST];
    if (::getnameinfo(one->ifa_addr, size, text, sizeof text, nullptr, 0, NI_NUMERICHOST) == 0) {
      addresses.emplace_back(text);
    }
  }
  return addresses;
}

std::string first_to_answer(const std::vector<std::string>& addresses, int64_t port,
                            double timeout_s) {
  const auto begin = std::chrono::steady_clock::now();
  do {
    const auto found = std::find_if(addresses.begin(), addresses.end(),
                                    [&](const std::string& one) { return answers(one, port); });
    if (found != addresses.end()) return *found;
    std::this_thread::sleep_for(kPause);
  } while (std::chrono::steady_clock::now() - begin < std::chrono::duration<double>(timeout_s));
  std::string list;
  for (const std::string& one : addresses) list += (list.empty() ? "" : ", ") + one;
  throw CommError("nobody answers on port {} at {} within {} s", port,
                  list.empty() ? "a machine without addresses" : list, timeout_s);
}

}  // namespace locus::cluster
