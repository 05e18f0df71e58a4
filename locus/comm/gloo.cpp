#include "locus/comm/gloo.h"

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include <algorithm>
#include <chrono>
#include <cstdlib>

#include "locus/base/error.h"
#include "locus/comm/c10d_group.h"
#include "locus/comm/c10d_store.h"
#include "locus/comm/direct.h"

namespace locus::comm {
namespace {

using Gloo = c10d::ProcessGroupGloo;

class GlooTransport : public Transport {
 public:
  GlooTransport(const GlooSettings& settings, std::shared_ptr<Store> store)
      : settings_(settings), store_(std::move(store)) {}

  std::string name() const override { return "gloo"; }
  int64_t rank() const override { return settings_.rank; }
  int64_t world_size() const override { return settings_.world_size; }

  std::shared_ptr<ProcessGroup> make_group(const std::string& name,
                                           const std::vector<int64_t>& ranks) override {
    const int64_t number = num_groups_++;
    const auto found = std::find(ranks.begin(), ranks.end(), settings_.rank);
    if (found == ranks.end()) return nullptr;
    const int64_t rank = found - ranks.begin();
    // Groups of one call may differ from rank to rank: their first member tells them apart.
    const auto store = c10::make_intrusive<c10d::PrefixStore>(
        format("gloo/{}/{}/{}", settings_.start, number, ranks.front()), store_->impl().store);
    try {
      auto options = Gloo::Options::create(
          std::chrono::milliseconds(static_cast<int64_t>(settings_.timeout_s * 1e3)));
      options->devices.push_back(device());
      const auto backend = c10::make_intrusive<Gloo>(store, static_cast<int>(rank),
                                                     static_cast<int>(ranks.size()), options);
      // A member that has its own connections may be done and gone before another, still
      // connecting, has looked at the one to it: all wait until all are connected.
      if (ranks.size() > 1) backend->barrier()->wait();
      return with_direct_messages(make_c10d_group("gloo", name, ranks, rank, backend));
    } catch (const std::exception& error) {
      throw CommError("gloo: the ranks of group {} do not come together within {} s: {}", name,
                      settings_.timeout_s, first_line(error));
    }
  }

 private:
  std::shared_ptr<::gloo::transport::Device> device() const {
    if (!settings_.address.empty()) return Gloo::createDeviceForHostname(settings_.address);
    const char* interface = std::getenv("GLOO_SOCKET_IFNAME");
    return interface != nullptr ? Gloo::createDeviceForInterface(interface)
                                : Gloo::createDefaultDevice();
  }

  GlooSettings settings_;
  std::shared_ptr<Store> store_;
  int64_t num_groups_ = 0;
};

}  // namespace

std::unique_ptr<Transport> make_gloo_transport(const GlooSettings& settings,
                                               std::shared_ptr<Store> store) {
  return std::make_unique<GlooTransport>(settings, std::move(store));
}

}  // namespace locus::comm
