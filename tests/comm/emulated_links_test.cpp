#include "locus/comm/emulated_links.h"

#include <gtest/gtest.h>

#include <ostream>

namespace locus::comm {

void PrintTo(const GroupTraffic& traffic, std::ostream* out) {
  for (const Traffic& one : {traffic.inter, traffic.intra}) {
    *out << "{" << one.sent_bytes << " " << one.taken_bytes << " " << one.most_bytes << " "
         << one.latencies << "}";
  }
}

namespace {

using std::chrono::milliseconds;

// Ranks 0 1 | 2 3 | 4 5.
const std::vector<int64_t> kThreeNodes{0, 0, 1, 1, 2, 2};

TEST(TrafficModel, CountsTheRowsThatCrossNodesInAnExchange) {
  const TrafficModel model(kThreeNodes, 2);
  const GroupTraffic traffic = model.all_to_all(/*out_rows=*/{1, 0, 9, 4, 0, 2},
                                                /*in_rows=*/{3, 5, 9, 0, 7, 0}, /*row_bytes=*/10);
  EXPECT_EQ(traffic.inter, (Traffic{150.0, 30.0, 0.0, 1}));
  EXPECT_EQ(traffic.intra, (Traffic{0.0, 40.0, 0.0, 1}));
}

TEST(TrafficModel, AddsNothingToAnExchangeOfNothingOrWithItself) {
  const TrafficModel model(kThreeNodes, 2);
  EXPECT_EQ(model.all_to_all({0, 0, 9, 0, 0, 0}, {0, 0, 9, 0, 0, 0}, 10), GroupTraffic{});
  EXPECT_EQ(model.all_to_all({1, 1, 1, 1, 1, 1}, {1, 1, 1, 1, 1, 1}, 0), GroupTraffic{});
}

// Rank 2 takes from another node and sends within its own; all wait for the links that cross.
TEST(TrafficModel, SendsReductionsAndGatheringsRoundARing) {
  const TrafficModel model(kThreeNodes, 2);
  EXPECT_EQ(model.all_reduce(600),
            (GroupTraffic{{0.0, 1000.0, 1000.0, 2}, {1000.0, 0.0, 1000.0, 1}}));
  EXPECT_EQ(model.all_gather(10), (GroupTraffic{{0.0, 50.0, 50.0, 2}, {50.0, 0.0, 50.0, 1}}));
  EXPECT_EQ(model.reduce_scatter(10), model.all_gather(10));
  EXPECT_EQ(model.barrier(), (GroupTraffic{{0.0, 0.0, 0.0, 2}, {0.0, 0.0, 0.0, 1}}));
  EXPECT_EQ(model.all_reduce(0), GroupTraffic{});
  EXPECT_EQ(model.all_gather(0), GroupTraffic{});
}

TEST(TrafficModel, SendsNothingToTheRootOfABroadcast) {
  EXPECT_EQ(TrafficModel(kThreeNodes, 2).broadcast(10, 2),
            (GroupTraffic{{0.0, 0.0, 10.0, 2}, {10.0, 0.0, 10.0, 1}}));
  EXPECT_EQ(TrafficModel(kThreeNodes, 1).broadcast(10, 2),
            (GroupTraffic{{0.0, 0.0, 10.0, 2}, {0.0, 10.0, 10.0, 1}}));
  EXPECT_EQ(TrafficModel(kThreeNodes, 1).broadcast(10, 0),
            (GroupTraffic{{10.0, 0.0, 10.0, 2}, {0.0, 10.0, 10.0, 1}}));
}

TEST(TrafficModel, LeavesTheLinksBetweenNodesAloneInAGroupWithinOne) {
  const TrafficModel model({1, 1, 1}, 0);
  for (const GroupTraffic& traffic :
       {model.all_reduce(9), model.all_gather(9), model.broadcast(9, 1), model.barrier(),
        model.all_to_all({1, 1, 1}, {1, 1, 1}, 1)}) {
    EXPECT_EQ(traffic.inter, Traffic{});
    EXPECT_NE(traffic.intra, Traffic{});
  }
}

TEST(TrafficModel, AddsNothingToAGroupOfOne) {
  const TrafficModel model({3}, 0);
  EXPECT_EQ(model.all_reduce(9), GroupTraffic{});
  EXPECT_EQ(model.broadcast(9, 0), GroupTraffic{});
  EXPECT_EQ(model.barrier(), GroupTraffic{});
}

// 1 Mbit/s: a millisecond for 125 bytes.
const EmulateConfig kSlow{.nodes = 2,
                          .latency_us = 3000,
                          .gbit_per_s = 1e-3,
                          .intra_latency_us = 1000,
                          .intra_gbit_per_s = 1e-2};
const EmulatedTime kNow{std::chrono::hours(1)};

TEST(EmulatedLinks, TakeLatencyAndBytesOverBandwidth) {
  EXPECT_EQ(EmulatedLinks(kSlow).book(kNow, {{1250.0, 0.0, 0.0, 1}, {}}), kNow + milliseconds(13));
  EXPECT_EQ(EmulatedLinks(kSlow).book(kNow, {{0.0, 1250.0, 0.0, 2}, {}}), kNow + milliseconds(16));
  EXPECT_EQ(EmulatedLinks(kSlow).book(kNow, {{0.0, 0.0, 1250.0, 1}, {}}), kNow + milliseconds(13));
  EXPECT_EQ(EmulatedLinks(kSlow).book(kNow, {{}, {1250.0, 0.0, 0.0, 1}}), kNow + milliseconds(2));
  EXPECT_EQ(EmulatedLinks(kSlow).book(kNow, {}), kNow);
}

TEST(EmulatedLinks, CarryOneAfterAnotherEachWay) {
  EmulatedLinks links(kSlow);
  EXPECT_EQ(links.book(kNow, {{1250.0, 0.0, 0.0, 1}, {}}), kNow + milliseconds(13));
  // The latency of the first is no time of the link, and the other way is free.
  EXPECT_EQ(links.book(kNow, {{1250.0, 0.0, 0.0, 1}, {}}), kNow + milliseconds(23));
  EXPECT_EQ(links.book(kNow, {{0.0, 1250.0, 0.0, 1}, {}}), kNow + milliseconds(13));
  EXPECT_EQ(links.book(kNow, {{125.0, 125.0, 0.0, 1}, {}}), kNow + milliseconds(24));
  EXPECT_EQ(links.book(kNow, {{}, {1250.0, 0.0, 0.0, 1}}), kNow + milliseconds(2));
  // Free again.
  const EmulatedTime later = kNow + milliseconds(100);
  EXPECT_EQ(links.book(later, {{1250.0, 0.0, 0.0, 1}, {}}), later + milliseconds(13));
}

TEST(EmulatedLinks, TakeNoTimeWhereNothingIsSet) {
  EmulatedLinks links({.nodes = 2});
  EXPECT_EQ(links.book(kNow, {{1e9, 1e9, 1e9, 3}, {1e9, 1e9, 1e9, 3}}), kNow);
}

}  // namespace
}  // namespace locus::comm
