#include "locus/data/document_clusters.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "locus/base/error.h"
#include "locus/base/random.h"

namespace locus::data {
namespace {

constexpr int64_t kBuckets = 4096;
constexpr double kPseudoCount = 0.1;
constexpr int kStarts = 3, kMostRounds = 25;

using Buckets = std::vector<int32_t>;  // of a document's tokens

Buckets buckets_of(std::span<const int32_t> tokens) {
  const uint64_t key = name_key("document clusters");
  Buckets buckets;
  for (const int32_t id :
       tokens.first(std::min(tokens.size(), static_cast<size_t>(DocumentClusters::kMostTokens)))) {
    buckets.push_back(static_cast<int32_t>(random_bits(key, static_cast<uint64_t>(id)) % kBuckets));
  }
  return buckets;
}

// Log shares by [bucket][cluster], of what each cluster counts.
std::vector<float> log_shares(const std::vector<double>& count_KB, int64_t num_clusters) {
  std::vector<float> out(static_cast<size_t>(kBuckets * num_clusters));
  for (int64_t k = 0; k < num_clusters; ++k) {
    const double* count = count_KB.data() + k * kBuckets;
    double total = 0;
    for (int64_t b = 0; b < kBuckets; ++b) total += count[b] + kPseudoCount;
    for (int64_t b = 0; b < kBuckets; ++b) {
      out[static_cast<size_t>(b * num_clusters + k)] =
          static_cast<float>(std::log((count[b] + kPseudoCount) / total));
    }
  }
  return out;
}

// The best cluster and the log probability of the document under it.
std::pair<int64_t, double> best_of(const Buckets& document, const std::vector<float>& log_share,
                                   int64_t num_clusters) {
  std::vector<double> sum(static_cast<size_t>(num_clusters));
  for (const int32_t bucket : document) {
    const float* row = log_share.data() + bucket * num_clusters;
    for (size_t k = 0; k < sum.size(); ++k) sum[k] += static_cast<double>(row[k]);
  }
  const auto best = std::max_element(sum.begin(), sum.end());
  return {best - sum.begin(), *best};
}

class Fit {
 public:
  Fit(const std::vector<Buckets>& documents, int64_t num_clusters, uint64_t key)
      : documents_(documents), num_clusters_(num_clusters), key_(key) {}

  // The log probability of all documents.
  double run() {
    start();
    std::vector<int64_t> before;
    double total = 0;
    for (int round = 0; round < kMostRounds; ++round) {
      std::vector<int64_t> cluster;
      total = 0;
      std::vector<double> count(static_cast<size_t>(num_clusters_ * kBuckets));
      for (const Buckets& document : documents_) {
        const auto [best, value] = best_of(document, log_share, num_clusters_);
        cluster.push_back(best);
        total += value;
        for (const int32_t bucket : document)
          ++count[static_cast<size_t>(best * kBuckets + bucket)];
      }
      if (cluster == before) break;
      before = std::move(cluster);
      log_share = log_shares(count, num_clusters_);
    }
    return total;
  }

  std::vector<float> log_share;

 private:
  // As k-means++: each next cluster begins with a document that the clusters before say badly.
  void start() {
    std::vector<double> count(static_cast<size_t>(num_clusters_ * kBuckets));
    std::vector<double> badness(documents_.size(), 1.0);
    for (int64_t k = 0; k < num_clusters_; ++k) {
      const Buckets& chosen = documents_[draw(badness, static_cast<uint64_t>(k))];
      std::vector<double> own(kBuckets);
      for (const int32_t bucket : chosen) ++own[static_cast<size_t>(bucket)];
      std::copy(own.begin(), own.end(), count.begin() + k * kBuckets);
      const std::vector<float> share = log_shares(own, 1);
      for (size_t i = 0; i < documents_.size(); ++i) {
        const double now = surplus(documents_[i], best_of(documents_[i], share, 1).second);
        badness[i] = k == 0 ? now : std::min(badness[i], now);
      }
    }
    log_share = log_shares(count, num_clusters_);
  }

  // What a document costs more than under its own distribution.
  static double surplus(const Buckets& document, double log_probability) {
    Buckets sorted = document;
    std::sort(sorted.begin(), sorted.end());
    const auto size = static_cast<double>(sorted.size());
    double own = 0;
    for (auto it = sorted.begin(); it != sorted.end();) {
      const auto end = std::upper_bound(it, sorted.end(), *it);
      const auto times = static_cast<double>(end - it);
      own += times * std::log(times / size);
      it = end;
    }
    return std::max(0.0, own - log_probability);
  }

  size_t draw(const std::vector<double>& weight, uint64_t number) const {
    double total = 0;
    for (const double one : weight) total += one;
    double left = random_uniform(key_, number) * total;
    for (size_t i = 0; i < weight.size(); ++i) {
      left -= weight[i];
      if (left < 0) return i;
    }
    return static_cast<size_t>(random_bits(key_, number) % weight.size());
  }

  const std::vector<Buckets>& documents_;
  const int64_t num_clusters_;
  const uint64_t key_;
};

}  // namespace

DocumentClusters::DocumentClusters(const std::vector<std::vector<int32_t>>& documents,
                                   int64_t num_clusters, uint64_t seed)
    : num_clusters_(num_clusters) {
  LOCUS_CHECK(num_clusters > 0, "{} clusters", num_clusters);
  std::vector<Buckets> sample;
  for (const auto& document : documents) {
    if (!document.empty()) sample.push_back(buckets_of(document));
  }
  log_share_ =
      log_shares(std::vector<double>(static_cast<size_t>(num_clusters * kBuckets)), num_clusters);
  double best = -std::numeric_limits<double>::infinity();
  for (uint64_t start = 0; start < kStarts && !sample.empty(); ++start) {
    Fit fit(sample, num_clusters, random_key({seed, name_key("clusters"), start}));
    const double value = fit.run();
    if (value <= best) continue;
    best = value;
    log_share_ = std::move(fit.log_share);
  }
}

int64_t DocumentClusters::cluster_of(std::span<const int32_t> tokens) const {
  return best_of(buckets_of(tokens), log_share_, num_clusters_).first;
}

}  // namespace locus::data
