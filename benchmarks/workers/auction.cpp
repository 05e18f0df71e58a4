// BASE's balanced assignment of tokens to experts (moe/auction.h), and how near it comes to the
// best one there is.
#include "locus/moe/auction.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>

#include "benchmarks/workers/serve.h"
#include "locus/placement/balanced_assignment.h"

namespace locus::benchmarks {
namespace {

struct AuctionOptions {
  int64_t tokens = 4096;
  int64_t num_experts = 64;
  int64_t hidden_size = 512;

  template <class V>
  void visit_fields(V& v) {
    v("tokens", tokens, "of a micro-batch");
    v("num_experts", num_experts, "experts");
    v("hidden_size", hidden_size, "width of a token");
  }
};

// Scores as a gate gives them that has begun to learn: tokens lie around the experts' rows, around
// some of them many more than around others.
at::Tensor clustered_scores(const AuctionOptions& options) {
  auto generator = at::detail::createCPUGenerator(/*seed=*/1);
  const at::Tensor center_ED = at::randn({options.num_experts, options.hidden_size}, generator);
  const at::Tensor popular_T =
      (at::rand({options.tokens}, generator).square() * options.num_experts).to(at::kLong);
  const at::Tensor x_TD = center_ED.index_select(0, popular_T) * 0.7 +
                          at::randn({options.tokens, options.hidden_size}, generator);
  return at::mm(x_TD, center_ED.t()) * 0.01;
}

double total(const at::Tensor& score_TE, const at::Tensor& expert_T) {
  return score_TE.gather(1, expert_T.unsqueeze(1)).sum(at::kDouble).item<double>();
}

double best_total(const at::Tensor& score_TE) {
  const at::Tensor cost = -score_TE.to(at::kDouble);
  const int64_t num_experts = cost.size(1);
  const std::vector<int64_t> room(static_cast<size_t>(num_experts),
                                  (cost.size(0) + num_experts - 1) / num_experts);
  return total(
      score_TE,
      at::tensor(placement::balanced_assignment(
                     {cost.const_data_ptr<double>(), static_cast<size_t>(cost.numel())}, room),
                 at::kLong));
}

}  // namespace

Worker make_auction(const std::vector<std::string>& settings) {
  const auto options = parse_settings<AuctionOptions>(settings);
  const at::Tensor score_TE = clustered_scores(options);
  const at::Tensor index_T = at::arange(options.tokens, at::kLong);
  const at::Tensor expert_T = moe::auction_experts(score_TE, index_T, moe::TokenPool());
  Worker worker;
  worker.facts = {{"share_of_best", total(score_TE, expert_T) / best_total(score_TE)}};
  worker.run = [score_TE, index_T] {
    const Stopwatch watch;
    moe::auction_experts(score_TE, index_T, moe::TokenPool());
    return Report{{"seconds", watch.seconds()}};
  };
  return worker;
}

}  // namespace locus::benchmarks
