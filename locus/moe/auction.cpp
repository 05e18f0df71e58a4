// Tokens bid, experts are bought. A token without an expert bids for the one that is worth most to
// it at the current prices, as much as would leave it no worse off than with its second best, plus
// epsilon. An expert keeps the highest bids that it has room for; once it is full, the lowest of
// them is its price. Whoever is outbid bids again. Every rank hears all bids and so knows what all
// experts hold; only the rank of a token knows its scores.

#include "locus/moe/auction.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <limits>
#include <queue>
#include <unordered_map>
#include <vector>

#include "locus/base/error.h"

namespace locus::moe {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kSteps = 100;  // of epsilon in the range of the scores
// A price rises only when all that an expert holds has been outbid once: a few tokens that nobody
// has room for would bid for very long. From then on epsilon doubles after as many rounds.
constexpr int64_t kPatience = 256;
constexpr int64_t kMostRounds = 100'000;

struct Bid {
  double amount;
  int64_t index;  // of the token in the global batch

  bool operator>(const Bid& other) const {
    return amount > other.amount || (amount == other.amount && index < other.index);
  }
};

// The bids that an expert holds; the lowest one is on top.
using Held = std::priority_queue<Bid, std::vector<Bid>, std::greater<>>;

class Auction {
 public:
  Auction(const at::Tensor& score_TE, const at::Tensor& index_T, const TokenPool& pool)
      : pool_(pool),
        num_tokens_(score_TE.size(0)),
        num_experts_(score_TE.size(1)),
        score_TE_(score_TE),
        scores_(score_TE.const_data_ptr<double>()),
        index_T_(index_T),
        price_E_(static_cast<size_t>(num_experts_), 0.0),
        held_E_(static_cast<size_t>(num_experts_)),
        expert_T_(static_cast<size_t>(num_tokens_), -1) {
    const int64_t* index = index_T.const_data_ptr<int64_t>();
    for (int64_t t = 0; t < num_tokens_; ++t) {
      const bool is_new = token_of_.emplace(index[t], t).second;
      LOCUS_CHECK(is_new, "two tokens at place {}", index[t]);
      waiting_.push_back(t);
    }
    const int64_t all_tokens = num_tokens_ * pool.num_ranks();
    room_ = (all_tokens + num_experts_ - 1) / num_experts_;
  }

  std::vector<int64_t> run() {
    set_epsilon();
    for (int64_t round = 1; trade(); ++round) {
      if (round % kPatience == 0) epsilon_ *= 2;
      LOCUS_CHECK(round < kMostRounds, "an auction of {} tokens and {} experts does not end",
                  num_tokens_, num_experts_);
    }
    return expert_T_;
  }

 private:
  void set_epsilon() {
    double least = kInfinity, most = -kInfinity;
    if (num_tokens_ > 0) {
      least = score_TE_.min().item<double>();
      most = score_TE_.max().item<double>();
    }
    const at::Tensor own = at::tensor(std::vector<double>{least, -most}, at::kDouble);
    const at::Tensor ends = pool_.gather(own.unsqueeze(0)).all.amin({0});
    least = ends[0].item<double>();
    most = -ends[1].item<double>();
    const double size = std::max(std::abs(least), std::abs(most));
    // Above what the amounts are rounded by.
    epsilon_ = std::max({(most - least) / kSteps, 1e-9 * size, 1e-12});
  }

  // One round: every waiting token bids. False when none waits, on any rank.
  bool trade() {
    const at::Tensor bids_B3 = pool_.gather(own_bids()).all;
    waiting_.clear();
    const double* bid = bids_B3.const_data_ptr<double>();
    for (int64_t b = 0; b < bids_B3.size(0); ++b, bid += 3) {
      take(static_cast<size_t>(bid[0]), {bid[1], static_cast<int64_t>(bid[2])});
    }
    for (size_t e = 0; e < held_E_.size(); ++e) {
      if (!held_E_[e].empty() && std::ssize(held_E_[e]) == room_)
        price_E_[e] = held_E_[e].top().amount;
    }
    std::sort(waiting_.begin(), waiting_.end());
    return bids_B3.size(0) > 0;
  }

  // [B, 3]: expert, amount, place.
  at::Tensor own_bids() {
    const auto num_bids = static_cast<int64_t>(waiting_.size());
    at::Tensor bids = at::empty({num_bids, 3}, at::kDouble);
    double* bid = bids.mutable_data_ptr<double>();
    const int64_t* index = index_T_.const_data_ptr<int64_t>();
    for (const int64_t token : waiting_) {
      const double* row = scores_ + token * num_experts_;
      double best = -kInfinity, second = -kInfinity;
      int64_t expert = 0;
      for (int64_t e = 0; e < num_experts_; ++e) {
        const double value = row[e] - price_E_[static_cast<size_t>(e)];
        if (value > best) {
          second = best;
          best = value;
          expert = e;
        } else if (value > second) {
          second = value;
        }
      }
      if (num_experts_ == 1) second = best;
      *bid++ = static_cast<double>(expert);
      *bid++ = price_E_[static_cast<size_t>(expert)] + (best - second) + epsilon_;
      *bid++ = static_cast<double>(index[token]);
    }
    return bids;
  }

  // The expert holds the bid, or whom it outbids waits.
  void take(size_t expert, const Bid& bid) {
    Held& held = held_E_[expert];
    held.push(bid);
    set_expert(bid.index, static_cast<int64_t>(expert));
    if (std::ssize(held) <= room_) return;
    const int64_t outbid = held.top().index;
    held.pop();
    set_expert(outbid, -1);
  }

  // Where the token is this rank's.
  void set_expert(int64_t index, int64_t expert) {
    const auto found = token_of_.find(index);
    if (found == token_of_.end()) return;
    expert_T_[static_cast<size_t>(found->second)] = expert;
    if (expert < 0) waiting_.push_back(found->second);
  }

  const TokenPool& pool_;
  int64_t num_tokens_, num_experts_;
  at::Tensor score_TE_;
  const double* scores_;
  at::Tensor index_T_;
  std::vector<double> price_E_;
  std::vector<Held> held_E_;
  int64_t room_ = 0;  // of every expert
  std::vector<int64_t> expert_T_;
  std::vector<int64_t> waiting_;                   // of this rank, rising
  std::unordered_map<int64_t, int64_t> token_of_;  // by place, of this rank
  double epsilon_ = 0;
};

// Double, on the host, finite.
at::Tensor usable_scores(const at::Tensor& score_TE) {
  const at::Tensor score = score_TE.detach().to(at::kCPU, at::kDouble).contiguous();
  const at::Tensor is_finite = score.isfinite();
  if (is_finite.all().item<bool>()) return score;
  const at::Tensor lowest = at::where(is_finite, score, at::full({}, kInfinity, at::kDouble)).min();
  const double least = lowest.item<double>();
  return score.masked_fill(is_finite.logical_not(), std::isfinite(least) ? least : 0.0);
}

}  // namespace

at::Tensor auction_experts(const at::Tensor& score_TE, const at::Tensor& index_T,
                           const TokenPool& pool) {
  const at::NoGradGuard no_grad;
  const at::Tensor index = index_T.to(at::kCPU).contiguous();
  const std::vector<int64_t> expert_T = Auction(usable_scores(score_TE), index, pool).run();
  return at::tensor(expert_T, at::kLong).to(score_TE.device());
}

}  // namespace locus::moe
