#include "locus/cluster/address.h"

#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "locus/base/error.h"
#include "tests/support/expect_error.h"

namespace locus::cluster {
namespace {

// Listens on a free port of 127.0.0.1 as long as it lives.
class Listener {
 public:
  Listener() : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    auto* any = reinterpret_cast<sockaddr*>(&address);
    EXPECT_EQ(::bind(socket_, any, size), 0);
    EXPECT_EQ(::listen(socket_, 4), 0);
    EXPECT_EQ(::getsockname(socket_, any, &size), 0);
    port_ = ntohs(address.sin_port);
  }
  ~Listener() { ::close(socket_); }
  Listener(const Listener&) = delete;
  Listener& operator=(const Listener&) = delete;

  int64_t port() const { return port_; }

 private:
  int socket_;
  int64_t port_ = 0;
};

TEST(Address, IsTheFirstThatAnswers) {
  const Listener listener;
  EXPECT_EQ(first_to_answer({"127.0.0.2", "127.0.0.1"}, listener.port(), 5.0), "127.0.0.1");
}

TEST(Address, ThatNobodyAnswersAtIsNamed) {
  int64_t port = 0;
  {
    const Listener listener;
    port = listener.port();
  }
  EXPECT_EQ(test::error_of<CommError>([&] {
              first_to_answer({"127.0.0.1", "::1"}, port, 0.1);
            }),
            format("nobody answers on port {} at 127.0.0.1, ::1 within 0.1 s", port));
  EXPECT_EQ(test::error_of<CommError>([&] { first_to_answer({}, port, 0.0); }),
            format("nobody answers on port {} at a machine without addresses within 0 s", port));
}

TEST(Address, OfThisMachineIsNoLoopback) {
  for (const std::string& address : own_addresses()) {
    EXPECT_FALSE(address.starts_with("127.")) << address;
    EXPECT_NE(address, "::1");
  }
}

}  // namespace
}  // namespace locus::cluster
