#include "locus/placement/sequence_placer.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <utility>

#include "locus/base/error.h"
#include "locus/placement/balanced_assignment.h"

namespace locus::placement {
namespace {

using Table = std::vector<std::vector<double>>;

// Below it, the difference between two places is not worth a change.
constexpr double kLeastGain = 0.005;

// What is left of older counts when newer ones are taken up.
constexpr double kDecay = 0.8;

void add(ExpertUse& sum, const ExpertUse& more, double weight) {
  sum.resize(std::max(sum.size(), more.size()));
  for (size_t m = 0; m < more.size(); ++m) {
    sum[m].resize(std::max(sum[m].size(), more[m].size()));
    for (size_t g = 0; g < more[m].size(); ++g) {
      sum[m][g].resize(std::max(sum[m][g].size(), more[m][g].size()));
      for (size_t e = 0; e < more[m][g].size(); ++e) sum[m][g][e] += weight * more[m][g][e];
    }
  }
}

// Of all ways of the tokens, those that find what they want: by the tables' columns.
double value_of(const std::vector<int64_t>& tokens_G, const Table& share_GX, size_t column) {
  double sum = 0;
  for (size_t g = 0; g < share_GX.size() && g < tokens_G.size(); ++g) {
    sum += static_cast<double>(tokens_G[g]) * share_GX[g][column];
  }
  return sum;
}

// The sequences by place, in their order: the i-th place has the values of columns[i] and room[i].
std::vector<std::vector<int64_t>> shared_out(const std::vector<int64_t>& sequences,
                                             const TokensByDomain& tokens_NG, const Table& share_GX,
                                             const std::vector<int64_t>& columns,
                                             const std::vector<int64_t>& room) {
  std::vector<double> cost(sequences.size() * columns.size());
  for (size_t i = 0; i < sequences.size(); ++i) {
    double* cost_of = cost.data() + i * columns.size();
    const std::vector<int64_t>& tokens_G = tokens_NG[static_cast<size_t>(sequences[i])];
    for (size_t g = 0; g < share_GX.size() && g < tokens_G.size(); ++g) {
      if (tokens_G[g] == 0) continue;  // of most domains a sequence has nothing
      const auto tokens = static_cast<double>(tokens_G[g]);
      for (size_t k = 0; k < columns.size(); ++k) {
        cost_of[k] -= tokens * share_GX[g][static_cast<size_t>(columns[k])];
      }
    }
  }
  const std::vector<int64_t> place = balanced_assignment(cost, room);
  std::vector<std::vector<int64_t>> out(columns.size());
  for (size_t i = 0; i < sequences.size(); ++i) {
    out[static_cast<size_t>(place[i])].push_back(sequences[i]);
  }
  return out;
}

}  // namespace

std::vector<int64_t> as_they_come(size_t count) {
  std::vector<int64_t> order(count);
  std::iota(order.begin(), order.end(), int64_t{0});
  return order;
}

struct SequencePlacer::Shares {
  Table on_node_GP;  // of the ways of a domain's tokens, those that stay on the node of place p
  Table on_rank_GR;

  bool are_alike() const {
    for (const auto& row : on_node_GP) {
      const auto [least, most] = std::minmax_element(row.begin(), row.end());
      if (*most - *least > kLeastGain) return false;
    }
    return true;
  }
};

SequencePlacer::SequencePlacer(Neighbourhood neighbourhood, int64_t interval, int64_t lag)
    : neighbourhood_(std::move(neighbourhood)), interval_(interval), lag_(lag) {
  for (const auto& group : neighbourhood_.ranks_of_group) {
    std::map<int64_t, std::vector<int64_t>> by_node;
    for (const int64_t rank : group) {
      by_node[neighbourhood_.node_of(rank)].push_back(rank);
    }
    for (auto& [node, ranks] : by_node) ranks_of_place_.push_back(std::move(ranks));
  }
}

void SequencePlacer::update(int64_t step, const ExpertUse& use_MGE,
                            const std::vector<ExpertOfSlot>& places) {
  const std::lock_guard lock(mutex_);
  add(state_.counted_MGE, use_MGE, 1);
  if (step % interval_ != 0) return;
  std::vector<Version>& versions = state_.versions;
  Version next{step + lag_, std::exchange(state_.counted_MGE, {}), places};
  if (!versions.empty()) add(next.use_MGE, versions.back().use_MGE, kDecay);
  versions.push_back(std::move(next));
  // Of the steps up to this one all have been asked for.
  while (versions.size() > 1 && versions[1].from_step <= step) versions.erase(versions.begin());
}

const SequencePlacer::Version* SequencePlacer::version_at(int64_t step) const {
  const Version* found = nullptr;
  for (const Version& version : state_.versions) {
    if (version.from_step <= step) found = &version;
  }
  return found;
}

SequencePlacer::Shares SequencePlacer::shares(const Version& version) const {
  const ExpertUse& use_MGE = version.use_MGE;
  const size_t num_domains = use_MGE.empty() ? 0 : use_MGE.front().size();
  const size_t num_ranks = neighbourhood_.node_of_rank.size();
  Shares out{Table(num_domains, std::vector<double>(ranks_of_place_.size())),
             Table(num_domains, std::vector<double>(num_ranks))};
  for (size_t g = 0; g < num_domains; ++g) {
    double total = 0;
    for (const auto& use_GE : use_MGE) {
      total = std::accumulate(use_GE[g].begin(), use_GE[g].end(), total);
    }
    if (total == 0) continue;  // never seen: all places are as good
    for (const auto& group : neighbourhood_.ranks_of_group) {
      for (size_t m = 0; m < use_MGE.size(); ++m) {
        const std::vector<double>& use_E = use_MGE[m][g];
        const size_t experts_per_rank = use_E.size() / group.size();
        for (size_t slot = 0; slot < use_E.size(); ++slot) {
          const size_t expert = m < version.places.size() && !version.places[m].empty()
                                    ? static_cast<size_t>(version.places[m][slot])
                                    : slot;
          const auto rank = static_cast<size_t>(group[slot / experts_per_rank]);
          out.on_rank_GR[g][rank] += use_E[expert] / total;
        }
      }
    }
    for (size_t p = 0; p < ranks_of_place_.size(); ++p) {
      for (const int64_t rank : ranks_of_place_[p]) {
        out.on_node_GP[g][p] += out.on_rank_GR[g][static_cast<size_t>(rank)];
      }
    }
  }
  return out;
}

std::vector<int64_t> SequencePlacer::order(int64_t step, const TokensByDomain& tokens_NG) const {
  const size_t num_ranks = neighbourhood_.node_of_rank.size();
  LOCUS_CHECK(tokens_NG.size() % num_ranks == 0, "{} sequences for {} ranks", tokens_NG.size(),
              num_ranks);
  const std::vector<int64_t> all = as_they_come(tokens_NG.size());
  const std::lock_guard lock(mutex_);
  const Version* version = version_at(step);
  if (version == nullptr) return all;
  const Shares share = shares(*version);
  if (share.are_alike()) return all;

  // First the place, that is the node; then the rank of the place.
  const auto per_rank = static_cast<int64_t>(tokens_NG.size() / num_ranks);
  std::vector<int64_t> room_P, columns_P = as_they_come(ranks_of_place_.size());
  for (const auto& ranks : ranks_of_place_) room_P.push_back(per_rank * std::ssize(ranks));
  const auto by_place = shared_out(all, tokens_NG, share.on_node_GP, columns_P, room_P);
  std::vector<std::vector<int64_t>> of_rank(num_ranks);
  for (size_t p = 0; p < by_place.size(); ++p) {
    const std::vector<int64_t>& ranks = ranks_of_place_[p];
    const std::vector<int64_t> room(ranks.size(), per_rank);
    const auto by_rank = shared_out(by_place[p], tokens_NG, share.on_rank_GR, ranks, room);
    for (size_t i = 0; i < ranks.size(); ++i) of_rank[static_cast<size_t>(ranks[i])] = by_rank[i];
  }
  std::vector<int64_t> order;
  for (const auto& sequences : of_rank) {
    order.insert(order.end(), sequences.begin(), sequences.end());
  }
  return order;
}

std::optional<ExpectedShare> SequencePlacer::expected_share(int64_t step,
                                                            const std::vector<int64_t>& order,
                                                            const TokensByDomain& tokens_NG) const {
  const std::lock_guard lock(mutex_);
  const Version* version = version_at(step);
  if (version == nullptr) return std::nullopt;
  const Shares share = shares(*version);
  const size_t per_rank = order.size() / neighbourhood_.node_of_rank.size();
  double tokens = 0;
  ExpectedShare sum;
  for (size_t p = 0; p < ranks_of_place_.size(); ++p) {
    for (const int64_t rank : ranks_of_place_[p]) {
      const size_t first = static_cast<size_t>(rank) * per_rank;
      for (size_t i = first; i < first + per_rank; ++i) {
        const auto& tokens_G = tokens_NG[static_cast<size_t>(order[i])];
        const auto known = std::min(tokens_G.size(), share.on_node_GP.size());
        for (size_t g = 0; g < known; ++g) tokens += static_cast<double>(tokens_G[g]);
        sum.on_node += value_of(tokens_G, share.on_node_GP, p);
        sum.on_rank += value_of(tokens_G, share.on_rank_GR, static_cast<size_t>(rank));
      }
    }
  }
  if (tokens == 0) return std::nullopt;
  return ExpectedShare{sum.on_node / tokens, sum.on_rank / tokens};
}

bool SequencePlacer::is_idle() const {
  const std::lock_guard lock(mutex_);
  return !state_.versions.empty() && shares(state_.versions.back()).are_alike();
}

SequencePlacer::State SequencePlacer::state() const {
  const std::lock_guard lock(mutex_);
  return state_;
}

void SequencePlacer::restore(State state) {
  const std::lock_guard lock(mutex_);
  state_ = std::move(state);
}

}  // namespace locus::placement
