#include "locus/comm/gloo.h"

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include <algorithm>
#include <chrono>
#include <cstdlib>

#include "locus/base/error.h"
#include "locus/comm/c10d_store.h"

namespace locus::comm {
namespace {

using Gloo = c10d::ProcessGroupGloo;

c10d::ReduceOp::RedOpType to_c10d(Reduce op) {
  switch (op) {
    case Reduce::kSum: return c10d::ReduceOp::SUM;
    case Reduce::kMax: return c10d::ReduceOp::MAX;
    case Reduce::kMin: return c10d::ReduceOp::MIN;
  }
  LOCUS_CHECK(false, "reduction {}", static_cast<int>(op));
}

class GlooWork : public Work {
 public:
  GlooWork(c10::intrusive_ptr<c10d::Work> work, std::string what)
      : work_(std::move(work)), what_(std::move(what)) {}
  ~GlooWork() override {
    try {
      wait();
    } catch (const CommError&) {
      // Whoever cares has called wait().
    }
  }

  bool is_done() override { return work_ == nullptr || work_->isCompleted(); }

  void wait() override {
    if (work_ == nullptr) return;
    try {
      work_->wait();
      work_.reset();
    } catch (const std::exception& error) {  // again, when it is waited for again
      throw CommError("gloo: {}: {}", what_, first_line(error));
    }
  }

 private:
  c10::intrusive_ptr<c10d::Work> work_;
  std::string what_;
};

class GlooGroup : public ProcessGroup {
 public:
  GlooGroup(const std::string& name, const std::vector<int64_t>& ranks, int64_t rank,
            c10::intrusive_ptr<Gloo> gloo)
      : ProcessGroup(name, ranks, rank), gloo_(std::move(gloo)) {}

  Pending all_reduce(const at::Tensor& x, Reduce op) override {
    std::vector<at::Tensor> tensors{x};
    c10d::AllreduceOptions options;
    options.reduceOp = to_c10d(op);
    return started(gloo_->allreduce(tensors, options), "all_reduce");
  }

  Pending all_gather(const at::Tensor& out, const at::Tensor& x) override {
    LOCUS_CHECK(out.numel() == x.numel() * size(), "{} of {} x {}", out.numel(), size(), x.numel());
    at::Tensor target = out;
    at::Tensor source = x;
    return started(gloo_->_allgather_base(target, source), "all_gather");
  }

  Pending reduce_scatter(const at::Tensor& out, const at::Tensor& x) override {
    LOCUS_CHECK(x.numel() == out.numel() * size(), "{} of {} x {}", x.numel(), size(), out.numel());
    at::Tensor target = out;
    at::Tensor source = x;
    return started(gloo_->_reduce_scatter_base(target, source), "reduce_scatter");
  }

  Pending broadcast(const at::Tensor& x, int64_t root) override {
    std::vector<at::Tensor> tensors{x};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    return started(gloo_->broadcast(tensors, options), "broadcast");
  }

  Pending all_to_all(const at::Tensor& out, const at::Tensor& in,
                     const std::vector<int64_t>& out_rows,
                     const std::vector<int64_t>& in_rows) override {
    at::Tensor target = out;
    at::Tensor source = in;
    std::vector<int64_t> target_rows = out_rows;
    std::vector<int64_t> source_rows = in_rows;
    return started(gloo_->alltoall_base(target, source, target_rows, source_rows), "all_to_all");
  }

  Pending barrier() override { return started(gloo_->barrier(), "barrier"); }

 private:
  Pending started(c10::intrusive_ptr<c10d::Work> work, const char* operation) {
    return std::make_unique<GlooWork>(std::move(work), format("{} of group {}", operation, name()));
  }

  c10::intrusive_ptr<Gloo> gloo_;
};

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
      return std::make_shared<GlooGroup>(
          name, ranks, rank,
          c10::make_intrusive<Gloo>(store, static_cast<int>(rank), static_cast<int>(ranks.size()),
                                    options));
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
