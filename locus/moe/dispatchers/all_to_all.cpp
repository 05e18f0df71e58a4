// Experts on several ranks: rows travel to the rank that holds their expert and back.
//
//   sorted by expert, this rank's rows for rank r lie side by side     [N, D]
//   all-to-all                                                         [M, D] by rank, then expert
//   put in order                                                       [M, D] by expert, then rank
//
// Ranks hold the sequences of the global batch in order, so an expert sees its rows in the order in
// which one rank alone would show them. Weights stay at home: they are applied to what comes back.
//
// T tokens, D hidden size, E experts of this rank, R ranks, N rows sent, M rows received.
#include <ATen/ATen.h>

#include <numeric>

#include "locus/base/error.h"
#include "locus/comm/collectives.h"
#include "locus/moe/dispatcher.h"
#include "locus/ops/rows.h"

namespace locus::moe {

struct Exchange {
  std::vector<int64_t> sent_R, received_R;  // rows
  at::Tensor by_expert_M;                   // place by expert -> place of arrival
  at::Tensor by_rank_M;                     // the way back
};

namespace {

class AllToAllDispatcher : public Dispatcher {
 public:
  AllToAllDispatcher(int64_t num_experts, std::shared_ptr<comm::ProcessGroup> group)
      : num_experts_(num_experts), group_(std::move(group)) {
    LOCUS_CHECK(num_experts_ % group_->size() == 0, "{} experts on {} ranks", num_experts_,
                group_->size());
  }

  Dispatched dispatch(const at::Tensor& x_TD, const Routing& routing) override {
    const ops::ExpertOrder sorted = ops::sort_by_expert(routing.assignment.expert_N, num_experts_);
    const std::vector<int64_t> counts_RE = exchange_counts(sorted.counts_E);
    const auto exchange = std::make_shared<const Exchange>(plan(sorted.counts_E, counts_RE));

    Dispatched out;
    out.token_N = routing.assignment.token_N.index_select(0, sorted.order_N);
    out.weight_N = routing.weight_N.index_select(0, sorted.order_N);
    out.num_tokens = x_TD.size(0);
    const at::Tensor arrived_MD = comm::all_to_all_rows(group_, ops::gather_rows(x_TD, out.token_N),
                                                        exchange->sent_R, exchange->received_R);
    out.x_ND = ops::gather_rows(arrived_MD, exchange->by_expert_M.to(x_TD.device()));
    out.counts_E = sum_of_ranks(counts_RE);
    out.exchange = exchange;
    return out;
  }

  at::Tensor combine(const at::Tensor& y_MD, const Dispatched& dispatched) override {
    const Exchange& exchange = *dispatched.exchange;
    const at::Tensor by_rank_MD = ops::gather_rows(y_MD, exchange.by_rank_M.to(y_MD.device()));
    const at::Tensor y_ND =
        comm::all_to_all_rows(group_, by_rank_MD, exchange.received_R, exchange.sent_R);
    return ops::combine_rows(y_ND, dispatched.token_N, dispatched.weight_N, dispatched.num_tokens);
  }

 private:
  int64_t experts_here() const { return num_experts_ / group_->size(); }

  // Rows that each rank has for each expert of this one, rank-major.
  std::vector<int64_t> exchange_counts(const std::vector<int64_t>& counts_all) const {
    const at::Tensor mine = at::tensor(counts_all, at::kLong);
    const at::Tensor theirs = at::empty_like(mine);
    const std::vector<int64_t> each(static_cast<size_t>(group_->size()), experts_here());
    group_->all_to_all(theirs, mine, each, each)->wait();
    const int64_t* first = theirs.const_data_ptr<int64_t>();
    return {first, first + num_experts_};
  }

  Exchange plan(const std::vector<int64_t>& counts_all,
                const std::vector<int64_t>& counts_RE) const {
    const int64_t experts = experts_here();
    const auto by_rank = [&](const std::vector<int64_t>& counts) {
      std::vector<int64_t> rows;
      for (int64_t r = 0; r < group_->size(); ++r) {
        const auto first = counts.begin() + r * experts;
        rows.push_back(std::accumulate(first, first + experts, int64_t{0}));
      }
      return rows;
    };
    Exchange exchange{by_rank(counts_all), by_rank(counts_RE), {}, {}};
    const int64_t num_rows = std::accumulate(counts_RE.begin(), counts_RE.end(), int64_t{0});
    exchange.by_expert_M = at::empty({num_rows}, at::kLong);
    exchange.by_rank_M = at::empty({num_rows}, at::kLong);
    std::vector<int64_t> first(counts_RE.size());  // where the rows of (rank, expert) arrive
    std::exclusive_scan(counts_RE.begin(), counts_RE.end(), first.begin(), int64_t{0});
    auto* by_expert = exchange.by_expert_M.mutable_data_ptr<int64_t>();
    auto* back = exchange.by_rank_M.mutable_data_ptr<int64_t>();
    int64_t place = 0;
    for (int64_t e = 0; e < experts; ++e) {
      for (int64_t r = 0; r < group_->size(); ++r) {
        const auto cell = static_cast<size_t>(r * experts + e);
        for (int64_t i = 0; i < counts_RE[cell]; ++i, ++place) {
          by_expert[place] = first[cell] + i;
          back[first[cell] + i] = place;
        }
      }
    }
    return exchange;
  }

  std::vector<int64_t> sum_of_ranks(const std::vector<int64_t>& counts_RE) const {
    std::vector<int64_t> counts_E(static_cast<size_t>(experts_here()));
    for (size_t i = 0; i < counts_RE.size(); ++i) counts_E[i % counts_E.size()] += counts_RE[i];
    return counts_E;
  }

  int64_t num_experts_;
  std::shared_ptr<comm::ProcessGroup> group_;
};

}  // namespace

std::unique_ptr<Dispatcher> make_all_to_all_dispatcher(int64_t num_experts,
                                                       std::shared_ptr<comm::ProcessGroup> group) {
  return std::make_unique<AllToAllDispatcher>(num_experts, std::move(group));
}

}  // namespace locus::moe
