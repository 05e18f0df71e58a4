#include <ATen/ATen.h>

#include "locus/moe/dispatcher.h"
#include "locus/ops/rows.h"

namespace locus::moe {
namespace {

class LocalDispatcher : public Dispatcher {
 public:
  explicit LocalDispatcher(int64_t num_experts) : num_experts_(num_experts) {}

  Dispatched dispatch(const at::Tensor& x_TD, const Routing& routing) override {
    const ops::ExpertOrder sorted = ops::sort_by_expert(routing.assignment.expert_N, num_experts_);
    Dispatched out;
    out.token_N = routing.assignment.token_N.index_select(0, sorted.order_N);
    out.weight_N = routing.weight_N.index_select(0, sorted.order_N);
    out.x_ND = ops::gather_rows(x_TD, out.token_N);
    out.counts_E = sorted.counts_E;
    out.num_tokens = x_TD.size(0);
    return out;
  }

  at::Tensor combine(const at::Tensor& y_ND, const Dispatched& dispatched) override {
    return ops::combine_rows(y_ND, dispatched.token_N, dispatched.weight_N, dispatched.num_tokens);
  }

 private:
  int64_t num_experts_;
};

}  // namespace

std::unique_ptr<Dispatcher> make_local_dispatcher(int64_t num_experts) {
  return std::make_unique<LocalDispatcher>(num_experts);
}

}  // namespace locus::moe
