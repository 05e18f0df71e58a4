#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>

#include "benchmarks/workers/ranks/bare_exchange.h"

namespace locus::benchmarks {

BareLibrary make_bare_gloo(const cluster::Launch& launch) {
  using Gloo = c10d::ProcessGroupGloo;
  c10d::TCPStoreOptions store_options;
  store_options.port = static_cast<uint16_t>(launch.master_port);
  const auto store = c10::make_intrusive<c10d::PrefixStore>(
      "bare", c10::make_intrusive<c10d::TCPStore>(launch.master_addr, store_options));
  auto options = Gloo::Options::create();
  options->devices.push_back(Gloo::createDeviceForHostname("127.0.0.1"));
  const auto gloo = c10::make_intrusive<Gloo>(store, static_cast<int>(launch.rank),
                                              static_cast<int>(launch.world_size), options);
  const auto size = static_cast<size_t>(launch.world_size);
  const auto exchange = [gloo, size](const at::Tensor& out, const at::Tensor& in) {
    at::Tensor target = out, source = in;
    std::vector<int64_t> rows(size, in.size(0) / static_cast<int64_t>(size)), same = rows;
    gloo->alltoall_base(target, source, rows, same)->wait();
  };
  return {"ProcessGroupGloo::alltoall_base", "", exchange};
}

}  // namespace locus::benchmarks
