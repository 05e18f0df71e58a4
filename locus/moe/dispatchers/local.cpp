#include <ATen/ATen.h>

#include "locus/moe/dispatcher.h"
#include "locus/ops/rows.h"

namespace locus::moe {
namespace {

class LocalRows : public Dispatched {
 public:
  LocalRows(const at::Tensor& x_TD, const Routing& routing, int64_t num_experts)
      : num_tokens_(x_TD.size(0)) {
    const ops::ExpertOrder sorted = ops::sort_by_expert(routing.assignment.expert_N, num_experts);
    token_N_ = routing.assignment.token_N.index_select(0, sorted.order_N);
    weight_N_ = routing.weight_N.index_select(0, sorted.order_N);
    x_ND_ = ops::gather_rows(x_TD, token_N_);
    counts_E_ = sorted.counts_E;
  }

  at::Tensor combine(const Experts& experts) override {
    const at::Tensor y_ND = experts.forward(x_ND_, counts_E_);
    return ops::combine_rows(y_ND, token_N_, weight_N_, num_tokens_);
  }

 private:
  // N assignments, sorted by expert.
  at::Tensor x_ND_, token_N_, weight_N_;
  std::vector<int64_t> counts_E_;
  int64_t num_tokens_;
};

class LocalDispatcher : public Dispatcher {
 public:
  explicit LocalDispatcher(int64_t num_experts) : num_experts_(num_experts) {}

  std::unique_ptr<Dispatched> dispatch(const at::Tensor& x_TD, Routing& routing) override {
    return std::make_unique<LocalRows>(x_TD, routing, num_experts_);
  }

 private:
  int64_t num_experts_;
};

}  // namespace

std::unique_ptr<Dispatcher> make_local_dispatcher(int64_t num_experts) {
  return std::make_unique<LocalDispatcher>(num_experts);
}

}  // namespace locus::moe
