// Domains for documents that come without: clusters of documents with like words.
//
// k-means in the geometry of distributions: a cluster is a distribution over hashed token ids, a
// document belongs to the one under which its tokens are most probable, and a cluster's
// distribution is that of its documents (a mixture of unigrams, fitted with hard assignments).
// model/domain_model.h tells domains by the same rule.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace locus::data {

class DocumentClusters {
 public:
  // Tokens of a document that are looked at.
  static constexpr int64_t kMostTokens = 1024;

  // The best of several starts, drawn by `seed`; the same on every machine. Documents without
  // tokens take no part. Fewer documents than clusters leave clusters empty.
  DocumentClusters(const std::vector<std::vector<int32_t>>& documents, int64_t num_clusters,
                   uint64_t seed);

  // Number of the document's cluster; of equally good ones the lower.
  int64_t cluster_of(std::span<const int32_t> tokens) const;
  int64_t num_clusters() const { return num_clusters_; }

 private:
  int64_t num_clusters_;
  std::vector<float> log_share_;  // [bucket][cluster]
};

}  // namespace locus::data
