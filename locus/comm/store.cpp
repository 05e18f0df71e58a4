#include "locus/comm/store.h"

#include <c10/util/Logging.h>
#include <torch/csrc/distributed/c10d/HashStore.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include <chrono>
#include <cstdlib>

#include "locus/base/error.h"
#include "locus/comm/c10d_store.h"

namespace locus::comm {
namespace {

std::chrono::milliseconds milliseconds(double seconds) {
  return std::chrono::milliseconds(static_cast<int64_t>(seconds * 1e3));
}

// c10d says a lot on stderr, with traces, of what reaches the user as one error of ours.
void silence_c10d() {
  if (std::getenv("TORCH_CPP_LOG_LEVEL") == nullptr) FLAGS_caffe2_log_level = 3;  // fatal
}

}  // namespace

Store::Store(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Store::~Store() = default;

void Store::set(const std::string& key, const std::string& value) {
  impl_->store->set(key, std::vector<uint8_t>(value.begin(), value.end()));
}

std::string Store::get(const std::string& key, double timeout_s) {
  try {
    impl_->store->wait({key}, milliseconds(timeout_s));
    const std::vector<uint8_t> value = impl_->store->get(key);
    return {value.begin(), value.end()};
  } catch (const std::exception& error) {
    throw CommError("the ranks' store has no \"{}\" after {} s: {}", key, timeout_s,
                    first_line(error));
  }
}

std::optional<std::string> Store::find(const std::string& key) {
  if (!impl_->store->check({key})) return std::nullopt;
  const std::vector<uint8_t> value = impl_->store->get(key);
  return std::string(value.begin(), value.end());
}

int64_t Store::add(const std::string& key, int64_t amount) {
  return impl_->store->add(key, amount);
}

std::shared_ptr<Store> Store::another_connection() const {
  auto impl = std::make_unique<Impl>(*impl_);
  try {
    impl->store = impl_->store->clone();
  } catch (const std::exception& error) {
    throw CommError("the ranks' store on port {} cannot be reached again: {}", port(),
                    first_line(error));
  }
  return std::make_shared<Store>(std::move(impl));
}

int64_t Store::port() const { return impl_->port; }
bool Store::serves() const { return impl_->serves; }

std::shared_ptr<Store> make_tcp_store(const std::string& host, int64_t port, bool serves,
                                      double timeout_s) {
  c10d::TCPStoreOptions options;
  options.port = static_cast<uint16_t>(port);
  options.isServer = serves;
  options.waitWorkers = false;
  options.timeout = milliseconds(timeout_s);
  silence_c10d();
  try {
    auto impl = std::make_unique<Store::Impl>();
    const auto store = c10::make_intrusive<c10d::TCPStore>(host, options);
    impl->store = store;
    impl->port = store->getPort();
    impl->serves = serves;
    return std::make_shared<Store>(std::move(impl));
  } catch (const std::exception& error) {
    if (serves) {
      throw CommError("cannot listen on port {} for the other ranks (another run on it?): {}", port,
                      first_line(error));
    }
    throw CommError("rank 0 does not answer at {}:{} within {} s: {}", host, port, timeout_s,
                    first_line(error));
  }
}

std::shared_ptr<Store> make_memory_store() {
  auto impl = std::make_unique<Store::Impl>();
  impl->store = c10::make_intrusive<c10d::HashStore>();
  return std::make_shared<Store>(std::move(impl));
}

}  // namespace locus::comm
