#include "locus/data/document_clusters.h"

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "locus/base/random.h"

namespace locus::data {
namespace {

// Of `topic`: mostly its own twenty words, some of everybody's.
std::vector<int32_t> document_of(int64_t topic, uint64_t seed, int64_t length) {
  std::vector<int32_t> tokens;
  for (uint64_t i = 0; std::ssize(tokens) < length; ++i) {
    const uint64_t draw = random_bits(seed, i);
    const bool common = draw % 10 < 3;
    const auto word = static_cast<int32_t>((draw >> 8) % 20);
    tokens.push_back(common ? 1000 + word : static_cast<int32_t>(topic) * 20 + word);
  }
  return tokens;
}

std::vector<std::vector<int32_t>> documents(int64_t num_topics, int64_t count) {
  std::vector<std::vector<int32_t>> out;
  for (int64_t i = 0; i < count; ++i) {
    out.push_back(document_of(i % num_topics, static_cast<uint64_t>(100 + i), 30 + i % 50));
  }
  return out;
}

TEST(DocumentClusters, FindTopics) {
  const auto all = documents(5, 200);
  const DocumentClusters clusters(all, 5, 1);
  std::map<int64_t, std::set<int64_t>> topics;
  for (size_t i = 0; i < all.size(); ++i) {
    topics[clusters.cluster_of(all[i])].insert(static_cast<int64_t>(i) % 5);
  }
  EXPECT_EQ(topics.size(), 5U);
  for (const auto& [cluster, found] : topics) EXPECT_EQ(found.size(), 1U) << cluster;
  // Documents that it has not seen.
  for (int64_t topic = 0; topic < 5; ++topic) {
    const auto unseen = document_of(topic, static_cast<uint64_t>(9000 + topic), 40);
    EXPECT_EQ(topics.at(clusters.cluster_of(unseen)).count(topic), 1U);
  }
}

TEST(DocumentClusters, AreTheSameTwice) {
  const auto all = documents(7, 150);
  const DocumentClusters first(all, 4, 3), second(all, 4, 3);
  for (const auto& document : all) {
    EXPECT_EQ(first.cluster_of(document), second.cluster_of(document));
  }
}

TEST(DocumentClusters, TakeFewAndEmptyDocuments) {
  const DocumentClusters none({}, 3, 1);
  EXPECT_EQ(none.cluster_of({}), 0);
  const DocumentClusters one({{}, {1, 2, 3}}, 3, 1);
  const std::vector<int32_t> document{1, 2, 3};
  EXPECT_GE(one.cluster_of(document), 0);
  EXPECT_LT(one.cluster_of(document), 3);
  const DocumentClusters alike(std::vector<std::vector<int32_t>>(10, {5, 5, 5}), 2, 1);
  EXPECT_EQ(alike.cluster_of(std::vector<int32_t>{5, 5, 5}),
            alike.cluster_of(std::vector<int32_t>{5}));
}

}  // namespace
}  // namespace locus::data
