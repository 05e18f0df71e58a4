#include "locus/comm/nccl.h"

#include <ATen/Context.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include <algorithm>
#include <chrono>
#include <cstdlib>

#include "locus/base/error.h"
#include "locus/comm/c10d_group.h"
#include "locus/comm/c10d_store.h"

namespace locus::comm {
namespace {

using Nccl = c10d::ProcessGroupNCCL;

// Each tensor by the one that its memory is for.
class NcclGroup : public ProcessGroup {
 public:
  NcclGroup(std::shared_ptr<ProcessGroup> host, std::shared_ptr<ProcessGroup> gpu,
            const std::vector<int64_t>& ranks)
      : ProcessGroup(host->name(), ranks, host->rank()),
        host_(std::move(host)),
        gpu_(std::move(gpu)) {}

  Pending all_reduce(const at::Tensor& x, Reduce op) override { return of(x).all_reduce(x, op); }
  Pending all_gather(const at::Tensor& out, const at::Tensor& x) override {
    return of(x).all_gather(out, x);
  }
  Pending reduce_scatter(const at::Tensor& out, const at::Tensor& x) override {
    return of(x).reduce_scatter(out, x);
  }
  Pending broadcast(const at::Tensor& x, int64_t root) override { return of(x).broadcast(x, root); }
  Pending all_to_all(const at::Tensor& out, const at::Tensor& in,
                     const std::vector<int64_t>& out_rows,
                     const std::vector<int64_t>& in_rows) override {
    return of(in).all_to_all(out, in, out_rows, in_rows);
  }
  Pending barrier() override { return host_->barrier(); }

 private:
  ProcessGroup& of(const at::Tensor& x) { return x.is_cuda() ? *gpu_ : *host_; }

  std::shared_ptr<ProcessGroup> host_, gpu_;
};

class NcclTransport : public Transport {
 public:
  NcclTransport(const GlooSettings& settings, const std::shared_ptr<Store>& store)
      : settings_(settings), store_(store), host_(make_gloo_transport(settings, store)) {
    // wait() then keeps its deadline and throws, where c10d would end the process without a word.
    ::setenv("TORCH_NCCL_BLOCKING_WAIT", "1", /*overwrite=*/0);
  }

  std::string name() const override { return "nccl"; }
  int64_t rank() const override { return settings_.rank; }
  int64_t world_size() const override { return settings_.world_size; }

  std::shared_ptr<ProcessGroup> make_group(const std::string& name,
                                           const std::vector<int64_t>& ranks) override {
    const int64_t number = num_groups_++;
    std::shared_ptr<ProcessGroup> host = host_->make_group(name, ranks);
    if (host == nullptr) return nullptr;
    const auto store = c10::make_intrusive<c10d::PrefixStore>(
        format("nccl/{}/{}/{}", settings_.start, number, ranks.front()), store_->impl().store);
    try {
      auto options = Nccl::Options::create();
      options->timeout = std::chrono::milliseconds(static_cast<int64_t>(settings_.timeout_s * 1e3));
      auto backend = c10::make_intrusive<Nccl>(store, static_cast<int>(host->rank()),
                                               static_cast<int>(ranks.size()), options);
      std::shared_ptr<ProcessGroup> gpu =
          make_c10d_group("nccl", name, ranks, host->rank(), std::move(backend));
      return std::make_shared<NcclGroup>(std::move(host), std::move(gpu), ranks);
    } catch (const std::exception& error) {
      throw CommError("nccl: group {}: {}", name, first_line(error));
    }
  }

 private:
  GlooSettings settings_;
  std::shared_ptr<Store> store_;
  std::unique_ptr<Transport> host_;
  int64_t num_groups_ = 0;
};

}  // namespace

bool nccl_is_available(std::string* why) {
  if (at::hasCUDA()) return true;
  *why = "this machine has no CUDA device";
  return false;
}

std::unique_ptr<Transport> make_nccl_transport(const GlooSettings& settings,
                                               const std::shared_ptr<Store>& store) {
  std::string why;
  if (!nccl_is_available(&why)) throw ConfigError("comm.backend = \"nccl\": {}", why);
  return std::make_unique<NcclTransport>(settings, store);
}

}  // namespace locus::comm
