// The routers as plain loops over doubles, to be checked by eye. Nothing here is fast or shared
// with the library.
//
// Rows are tokens, columns experts. Ties go to the lower index; NaN ranks below everything.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

namespace locus::reference {

using Row = std::vector<double>;
using Matrix = std::vector<Row>;

struct Pair {
  int64_t token, expert;
  double weight;
  int64_t choice = 0;  // 0: the token's first choice
};

inline Row softmax(const Row& logits) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  Row p;
  double sum = 0;
  for (const double z : logits) {
    p.push_back(std::exp(z - largest));
    sum += p.back();
  }
  for (double& value : p) value /= sum;
  return p;
}

inline Matrix softmax(const Matrix& logits) {
  Matrix p;
  for (const Row& row : logits) p.push_back(softmax(row));
  return p;
}

// The k best entries, best first.
inline std::vector<int64_t> best(const Row& score, int64_t k) {
  std::vector<bool> taken(score.size(), false);
  std::vector<int64_t> chosen;
  while (static_cast<int64_t>(chosen.size()) < k) {
    int64_t winner = -1;
    double winning = 0;
    for (size_t i = 0; i < score.size(); ++i) {
      const double s = std::isnan(score[i]) ? -std::numeric_limits<double>::infinity() : score[i];
      if (!taken[i] && (winner < 0 || s > winning)) {
        winner = static_cast<int64_t>(i);
        winning = s;
      }
    }
    taken[static_cast<size_t>(winner)] = true;
    chosen.push_back(winner);
  }
  return chosen;
}

// Keeps at most `capacity` pairs of each expert. A pair goes if that many others of its expert come
// before it: earlier choices first, then (by weight) heavier ones, then earlier ones in the list.
inline std::vector<Pair> limit(const std::vector<Pair>& pairs, int64_t capacity, bool by_weight) {
  std::vector<Pair> kept;
  for (size_t i = 0; i < pairs.size(); ++i) {
    int64_t before = 0;
    for (size_t j = 0; j < pairs.size(); ++j) {
      if (j == i || pairs[j].expert != pairs[i].expert) continue;
      if (pairs[j].choice != pairs[i].choice) {
        before += pairs[j].choice < pairs[i].choice;
      } else if (by_weight && pairs[j].weight != pairs[i].weight) {
        before += pairs[j].weight > pairs[i].weight;
      } else {
        before += j < i;
      }
    }
    if (before < capacity) kept.push_back(pairs[i]);
  }
  return kept;
}

struct TopK {
  int64_t k = 2;
  bool sigmoid = false;
  bool before = true;  // softmax over all, then choose
  bool norm = true;
  int64_t num_groups = 1, topk_group = 1;
  bool group_max = false;
  double scale = 1;
  Row bias = {};
};

inline std::vector<Pair> top_k(const Matrix& logits, const TopK& o) {
  std::vector<Pair> pairs;
  for (size_t t = 0; t < logits.size(); ++t) {
    Row score = o.before ? softmax(logits[t]) : logits[t];
    if (o.sigmoid) {
      for (size_t e = 0; e < score.size(); ++e) score[e] = 1 / (1 + std::exp(-logits[t][e]));
    }
    Row competing = score;
    for (size_t e = 0; e < o.bias.size(); ++e) competing[e] += o.bias[e];

    const size_t group_size = score.size() / static_cast<size_t>(o.num_groups);
    Row group_score;
    for (size_t g = 0; g < static_cast<size_t>(o.num_groups); ++g) {
      Row members(competing.begin() + static_cast<int64_t>(g * group_size),
                  competing.begin() + static_cast<int64_t>((g + 1) * group_size));
      std::sort(members.rbegin(), members.rend());
      group_score.push_back(members[0] + (o.group_max || group_size == 1 ? 0 : members[1]));
    }
    const std::vector<int64_t> groups = best(group_score, o.topk_group);
    for (size_t e = 0; e < competing.size(); ++e) {
      const auto group = static_cast<int64_t>(e / group_size);
      if (std::find(groups.begin(), groups.end(), group) == groups.end()) {
        competing[e] = -std::numeric_limits<double>::infinity();
      }
    }

    const std::vector<int64_t> chosen = best(competing, o.k);
    double sum = 0;
    for (const int64_t e : chosen) {
      const double s = score[static_cast<size_t>(e)];
      sum += o.before ? s : std::exp(s);
    }
    for (size_t i = 0; i < chosen.size(); ++i) {
      const double s = score[static_cast<size_t>(chosen[i])];
      double weight = o.before ? s : std::exp(s) / sum;
      if (o.before && o.norm && o.k > 1) weight = s / sum;
      // top_k has no first and second class choices: `choice` stays 0.
      pairs.push_back({static_cast<int64_t>(t), chosen[i], weight * o.scale});
    }
  }
  return pairs;
}

// Without capacity. draws: one per token; empty: the second expert is always used.
inline std::vector<Pair> gshard(const Matrix& logits, const Row& draws) {
  std::vector<Pair> pairs;
  for (size_t t = 0; t < logits.size(); ++t) {
    const Row p = softmax(logits[t]);
    const std::vector<int64_t> chosen = best(p, 2);
    const double p1 = p[static_cast<size_t>(chosen[0])];
    const double p2 = p[static_cast<size_t>(chosen[1])];
    pairs.push_back({static_cast<int64_t>(t), chosen[0], p1 / (p1 + p2), 0});
    if (draws.empty() || draws[t] < std::min(1.0, 2 * p2)) {
      pairs.push_back({static_cast<int64_t>(t), chosen[1], p2 / (p1 + p2), 1});
    }
  }
  return pairs;
}

inline std::vector<Pair> expert_choice(const Matrix& logits, int64_t capacity) {
  std::vector<Pair> pairs;
  const Matrix p = softmax(logits);
  for (size_t e = 0; e < logits[0].size(); ++e) {
    Row column;
    for (const Row& row : p) column.push_back(row[e]);
    for (const int64_t t : best(column, capacity)) {
      pairs.push_back({t, static_cast<int64_t>(e), column[static_cast<size_t>(t)]});
    }
  }
  return pairs;
}

// E * sum_i f_i P_i over the tokens begin..end, with the experts requested by each token.
inline double balance_loss(const Matrix& p, const std::vector<std::vector<int64_t>>& requested,
                           size_t begin, size_t end) {
  const size_t num_experts = p[0].size();
  double loss = 0;
  for (size_t e = 0; e < num_experts; ++e) {
    double count = 0, total = 0, mass = 0;
    for (size_t t = begin; t < end; ++t) {
      for (const int64_t chosen : requested[t]) {
        count += chosen == static_cast<int64_t>(e);
        total += 1;
      }
      mass += p[t][e];
    }
    loss += (count / total) * (mass / static_cast<double>(end - begin));
  }
  return loss * static_cast<double>(num_experts);
}

inline double z_loss(const Matrix& logits) {
  double sum = 0;
  for (const Row& row : logits) {
    double exponentials = 0;
    for (const double z : row) exponentials += std::exp(z);
    sum += std::log(exponentials) * std::log(exponentials);
  }
  return sum / static_cast<double>(logits.size());
}

}  // namespace locus::reference
