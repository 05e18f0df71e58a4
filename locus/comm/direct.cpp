#include "locus/comm/direct.h"

#include <ATen/ATen.h>

#include <utility>

#include "locus/base/error.h"

namespace locus::comm {
namespace {

at::Tensor reduced(const at::Tensor& x_RN, Reduce op) {
  switch (op) {
    case Reduce::kSum: return x_RN.sum(0, /*keepdim=*/false, x_RN.scalar_type());
    case Reduce::kMax: return x_RN.amax(0);
    case Reduce::kMin: return x_RN.amin(0);
  }
  LOCUS_CHECK(false, "reduction {}", static_cast<int>(op));
}

// Of messages that must stay until they have gone.
class DirectWork : public Work {
 public:
  DirectWork(Pending sent, at::Tensor copies) : in_(std::move(copies)), sent_(std::move(sent)) {}
  bool is_done() override { return sent_->is_done(); }
  void wait() override { sent_->wait(); }
  void wait_patiently() override { sent_->wait_patiently(); }

 private:
  at::Tensor in_;
  Pending sent_;  // ends before the tensor
};

class DirectReduction : public Work {
 public:
  DirectReduction(Pending sent, at::Tensor copies, at::Tensor all_RN, at::Tensor out, Reduce op)
      : in_(std::move(copies)),
        all_RN_(std::move(all_RN)),
        out_(std::move(out)),
        op_(op),
        sent_(std::move(sent)) {}
  bool is_done() override { return sent_->is_done(); }
  void wait() override {
    sent_->wait();
    reduce();
  }
  void wait_patiently() override {
    sent_->wait_patiently();
    reduce();
  }

 private:
  void reduce() {
    if (!out_.defined()) return;  // waited for again
    out_.copy_(reduced(all_RN_, op_).view_as(out_));
    out_ = at::Tensor();
  }

  at::Tensor in_, all_RN_, out_;
  Reduce op_;
  Pending sent_;  // ends before the tensors
};

class DirectGroup : public ProcessGroup {
 public:
  explicit DirectGroup(std::shared_ptr<ProcessGroup> group)
      : ProcessGroup(group->name(), world_ranks(*group), group->rank()), group_(std::move(group)) {}

  Pending all_reduce(const at::Tensor& x, Reduce op) override {
    if (!is_small(x)) return group_->all_reduce(x, op);
    const at::Tensor copies = copies_of(x);
    const at::Tensor all_RN = at::empty_like(copies);
    Pending sent = send(all_RN, copies);
    return std::make_unique<DirectReduction>(std::move(sent), copies, all_RN, x, op);
  }

  Pending all_gather(const at::Tensor& out, const at::Tensor& x) override {
    if (!is_small(x)) return group_->all_gather(out, x);
    LOCUS_CHECK(out.numel() == x.numel() * size(), "{} of {} x {}", out.numel(), size(), x.numel());
    const at::Tensor copies = copies_of(x);
    Pending sent = send(out.view({size(), x.numel()}), copies);
    return std::make_unique<DirectWork>(std::move(sent), copies);
  }

  Pending reduce_scatter(const at::Tensor& out, const at::Tensor& x) override {
    return group_->reduce_scatter(out, x);
  }
  Pending broadcast(const at::Tensor& x, int64_t root) override {
    return group_->broadcast(x, root);
  }
  Pending all_to_all(const at::Tensor& out, const at::Tensor& in,
                     const std::vector<int64_t>& out_rows,
                     const std::vector<int64_t>& in_rows) override {
    return group_->all_to_all(out, in, out_rows, in_rows);
  }
  Pending barrier() override { return group_->barrier(); }

 private:
  static std::vector<int64_t> world_ranks(const ProcessGroup& group) {
    std::vector<int64_t> ranks;
    for (int64_t rank = 0; rank < group.size(); ++rank) ranks.push_back(group.world_rank(rank));
    return ranks;
  }

  bool is_small(const at::Tensor& x) const {
    return size() > 2 && x.numel() > 0 && static_cast<int64_t>(x.nbytes()) <= kSmallMessage;
  }
  at::Tensor copies_of(const at::Tensor& x) const {
    return x.detach().reshape({1, -1}).expand({size(), x.numel()}).contiguous();
  }
  Pending send(const at::Tensor& out_RN, const at::Tensor& in_RN) {
    const std::vector<int64_t> rows(static_cast<size_t>(size()), 1);
    return group_->all_to_all(out_RN, in_RN, rows, rows);
  }

  std::shared_ptr<ProcessGroup> group_;
};

}  // namespace

std::shared_ptr<ProcessGroup> with_direct_messages(std::shared_ptr<ProcessGroup> group) {
  return std::make_shared<DirectGroup>(std::move(group));
}

}  // namespace locus::comm
