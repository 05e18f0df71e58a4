#include "locus/comm/c10d_group.h"

#include <exception>

#include "locus/base/error.h"
#include "locus/comm/c10d_store.h"

namespace locus::comm {
namespace {

c10d::ReduceOp::RedOpType to_c10d(Reduce op) {
  switch (op) {
    case Reduce::kSum: return c10d::ReduceOp::SUM;
    case Reduce::kMax: return c10d::ReduceOp::MAX;
    case Reduce::kMin: return c10d::ReduceOp::MIN;
  }
  LOCUS_CHECK(false, "reduction {}", static_cast<int>(op));
}

class C10dWork : public Work {
 public:
  // `what`: "gloo: all_reduce of group world"
  C10dWork(c10::intrusive_ptr<c10d::Work> work, std::string what)
      : work_(std::move(work)), what_(std::move(what)) {}
  ~C10dWork() override {
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
      throw CommError("{}: {}", what_, first_line(error));
    }
  }

 private:
  c10::intrusive_ptr<c10d::Work> work_;
  std::string what_;
};

class C10dGroup : public ProcessGroup {
 public:
  C10dGroup(const std::string& transport, const std::string& name,
            const std::vector<int64_t>& ranks, int64_t rank,
            c10::intrusive_ptr<c10d::Backend> backend)
      : ProcessGroup(name, ranks, rank), transport_(transport), backend_(std::move(backend)) {}

  Pending all_reduce(const at::Tensor& x, Reduce op) override {
    std::vector<at::Tensor> tensors{x};
    c10d::AllreduceOptions options;
    options.reduceOp = to_c10d(op);
    return started(backend_->allreduce(tensors, options), "all_reduce");
  }

  Pending all_gather(const at::Tensor& out, const at::Tensor& x) override {
    LOCUS_CHECK(out.numel() == x.numel() * size(), "{} of {} x {}", out.numel(), size(), x.numel());
    at::Tensor target = out;
    at::Tensor source = x;
    return started(backend_->_allgather_base(target, source), "all_gather");
  }

  Pending reduce_scatter(const at::Tensor& out, const at::Tensor& x) override {
    LOCUS_CHECK(x.numel() == out.numel() * size(), "{} of {} x {}", x.numel(), size(), out.numel());
    at::Tensor target = out;
    at::Tensor source = x;
    return started(backend_->_reduce_scatter_base(target, source), "reduce_scatter");
  }

  Pending broadcast(const at::Tensor& x, int64_t root) override {
    std::vector<at::Tensor> tensors{x};
    c10d::BroadcastOptions options;
    options.rootRank = root;
    return started(backend_->broadcast(tensors, options), "broadcast");
  }

  Pending all_to_all(const at::Tensor& out, const at::Tensor& in,
                     const std::vector<int64_t>& out_rows,
                     const std::vector<int64_t>& in_rows) override {
    at::Tensor target = out;
    at::Tensor source = in;
    std::vector<int64_t> target_rows = out_rows;
    std::vector<int64_t> source_rows = in_rows;
    return started(backend_->alltoall_base(target, source, target_rows, source_rows), "all_to_all");
  }

  Pending barrier() override { return started(backend_->barrier(), "barrier"); }

 private:
  Pending started(c10::intrusive_ptr<c10d::Work> work, const char* operation) {
    return std::make_unique<C10dWork>(std::move(work),
                                      format("{}: {} of group {}", transport_, operation, name()));
  }

  std::string transport_;
  c10::intrusive_ptr<c10d::Backend> backend_;
};

}  // namespace

std::shared_ptr<ProcessGroup> make_c10d_group(const std::string& transport, const std::string& name,
                                              const std::vector<int64_t>& ranks, int64_t rank,
                                              c10::intrusive_ptr<c10d::Backend> backend) {
  return std::make_shared<C10dGroup>(transport, name, ranks, rank, std::move(backend));
}

}  // namespace locus::comm
