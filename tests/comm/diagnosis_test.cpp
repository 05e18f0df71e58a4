#include "locus/comm/diagnosis.h"

#include <gtest/gtest.h>

#include "locus/base/format.h"

namespace locus::comm {
namespace {

// Eight ranks on two nodes, experts over four: groups 1 (world) and 2 (ep).
class Cluster {
 public:
  Cluster() : heard_(8) {
    for (int64_t rank = 0; rank < 8; ++rank) {
      RankReport report;
      report.host = rank < 4 ? "node1" : "node2";
      report.place = {812, "forward"};
      for (int64_t index = 0; index < 3; ++index) {
        GroupReport& group = report.groups.emplace_back();
        group.index = index;
        group.name = std::vector<std::string>{"groups", "world", "ep"}[static_cast<size_t>(index)];
        for (int64_t r = 0; r < 8; ++r) {
          if (index < 2 || r / 4 == rank / 4) group.ranks.push_back(r);
        }
      }
      heard_[static_cast<size_t>(rank)].report = report;
    }
  }

  RankReport& report(int64_t rank) { return *heard_[static_cast<size_t>(rank)].report; }
  // It has made `number` calls of the group and waits in the last one.
  void waits(int64_t rank, size_t group, int64_t number, const Signature& signature,
             const Place& place) {
    makes(rank, group, number, signature, place, CallState::kWaiting);
    report(rank).place = place;
  }
  void makes(int64_t rank, size_t group, int64_t number, const Signature& signature,
             const Place& place, CallState state) {
    GroupReport& made = report(rank).groups[group];
    made.num_calls = number;
    made.kept[static_cast<size_t>(number % GroupReport::kKeptCalls)] = {number, signature, place,
                                                                        state, 10.0};
  }
  void silence(int64_t rank, double ago_s) {
    heard_[static_cast<size_t>(rank)].is_silent = true;
    heard_[static_cast<size_t>(rank)].ago_s = ago_s;
  }
  void forget(int64_t rank) {
    heard_[static_cast<size_t>(rank)].report.reset();
    heard_[static_cast<size_t>(rank)].is_silent = true;
  }
  std::string ask(int64_t rank, int64_t group, int64_t number,
                  const std::string& reason = "timed out") const {
    return diagnose(heard_, {rank, group, number, reason});
  }

 private:
  std::vector<Heard> heard_;
};

const Signature kRows{Operation::kAllToAll, at::kFloat, 64};
const Signature kSum{Operation::kAllReduce, at::kDouble, 4, static_cast<int64_t>(Reduce::kSum)};
const Place kDispatch{812, "forward", "dispatch", 3};
const Place kReduce{812, "reduce"};

std::string first_line(const std::string& text) { return text.substr(0, text.find('\n')); }

void expect_has(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << "no \"" << part << "\" in\n" << text;
}

TEST(Diagnosis, NamesTheRankThatHasNotEnteredACall) {
  Cluster cluster;
  for (const int64_t rank : {4, 6, 7}) cluster.waits(rank, 2, 77, kRows, kDispatch);
  cluster.makes(5, 2, 76, kRows, kDispatch, CallState::kDone);
  cluster.report(5).place = {811, "optimizer step"};
  for (const int64_t rank : {0, 1, 2, 3}) cluster.waits(rank, 1, 30, kSum, kReduce);
  const std::string text = cluster.ask(6, 2, 77);
  EXPECT_EQ(first_line(text),
            "rank 5 on node2 has not entered dispatch of layer 3 at step 812; last seen in "
            "optimizer step at step 811");
  expect_has(text,
             "all_to_all of rows of 64 float32, call 77 of group ep of ranks 4-7: ranks 4, "
             "6, 7 on node2 have entered it, rank 5 on node2 has not");
  expect_has(text,
             "ranks 0-3 on node1: reduce at step 812, waiting in all_reduce of 4 float64 "
             "(sum), call 30 of group world");
  expect_has(text, "rank 6 on node2 reports: timed out");
}

TEST(Diagnosis, FollowsThoseWhoWaitToTheOneTheyWaitFor) {
  Cluster cluster;
  for (const int64_t rank : {4, 6, 7}) cluster.waits(rank, 2, 77, kRows, kDispatch);
  for (const int64_t rank : {0, 1, 2, 3}) cluster.waits(rank, 1, 30, kSum, kReduce);
  cluster.report(5).place = {812, "evaluation"};
  EXPECT_EQ(first_line(cluster.ask(0, 1, 30)),
            "rank 5 on node2 has not entered dispatch of layer 3 at step 812; last seen in "
            "evaluation at step 812");
}

TEST(Diagnosis, BlamesWhoIsGoneAndNotWhoIsLate) {
  Cluster cluster;
  for (const int64_t rank : {0, 1, 2, 3, 4, 6}) cluster.waits(rank, 1, 30, kSum, kReduce);
  cluster.silence(5, 12.4);  // 7 is late
  const std::string text = cluster.ask(0, 1, 30);
  EXPECT_EQ(first_line(text),
            "rank 5 on node2 has not entered all_reduce of group world (reduce) at step 812; last "
            "seen in forward at step 812, not heard of for 12 s: stopped, dead or cut off");
  expect_has(text, "rank 7 on node2: forward at step 812");
}

TEST(Diagnosis, NamesARankThatDiedInTheCall) {
  Cluster cluster;
  for (int64_t rank = 0; rank < 8; ++rank) cluster.waits(rank, 1, 30, kSum, kReduce);
  cluster.silence(2, 3.0);
  expect_has(first_line(cluster.ask(0, 1, 30)),
             "rank 2 on node1 was lost in all_reduce of group world (reduce) at step 812");
}

TEST(Diagnosis, NamesTheRankThatCallsSomethingElse) {
  Cluster cluster;
  for (int64_t rank = 0; rank < 8; ++rank) {
    cluster.waits(rank, 1, 30, rank == 3 ? Signature{Operation::kAllGather, at::kFloat, 12} : kSum,
                  kReduce);
  }
  EXPECT_EQ(first_line(cluster.ask(0, 1, 30)),
            "rank 3 on node1 calls all_gather of 12 float32 where ranks 0-2, 4-7 on node1, node2 "
            "call all_reduce of 4 float64 (sum): call 30 of group world, in reduce at step 812");
}

// The calls that differ have ended; the ranks hang later.
TEST(Diagnosis, GoesBackToTheFirstCallThatDiffers) {
  Cluster cluster;
  for (int64_t rank = 0; rank < 8; ++rank) {
    Signature signature = kSum;
    if (rank == 6) signature.count = 5;
    cluster.makes(rank, 1, 29, signature, kReduce, CallState::kDone);
    cluster.waits(rank, 1, 30, kSum, kReduce);
  }
  expect_has(first_line(cluster.ask(0, 1, 30)),
             "rank 6 on node2 calls all_reduce of 5 float64 (sum) where ranks 0-5, 7 on node1, "
             "node2 call all_reduce of 4 float64 (sum): call 29 of group world");
}

TEST(Diagnosis, SaysThatRanksWaitForOneAnother) {
  Cluster cluster;
  for (const int64_t rank : {0, 1, 2}) cluster.waits(rank, 2, 77, kRows, kDispatch);
  for (const int64_t rank : {3, 4, 5, 6, 7}) cluster.waits(rank, 1, 30, kSum, kReduce);
  const std::string text = cluster.ask(3, 1, 30);
  expect_has(first_line(text), "the ranks wait for one another");
  expect_has(text,
             "ranks 0-2 on node1: dispatch of layer 3 (forward) at step 812, waiting in "
             "all_to_all of rows of 64 float32, call 77 of group ep");
}

TEST(Diagnosis, FindsDifferentNumbersOfCalls) {
  Cluster cluster;
  for (int64_t rank = 0; rank < 8; ++rank) {
    cluster.report(rank).groups[1].num_calls = rank == 1 ? 900 : 901;
    cluster.report(rank).groups[1].hash = rank == 1 ? 5 : 6;
  }
  EXPECT_EQ(first_line(cluster.ask(0, -1, 0, "")),
            "rank 1 on node1 has made other calls of group world than ranks 0, 2-7 on node1, "
            "node2: 900 against 901 of them");
}

TEST(Diagnosis, LeavesItToARankThatHasAnErrorOfItsOwn) {
  Cluster cluster;
  cluster.waits(0, 1, 30, kSum, kReduce);
  cluster.report(4).state = RankState::kBroken;
  EXPECT_EQ(cluster.ask(0, 1, 30), "");
}

TEST(Diagnosis, NamesARankThatHasEndedOrNeverBegan) {
  Cluster cluster;
  for (const int64_t rank : {0, 1, 2, 3, 4, 6}) cluster.waits(rank, 1, 30, kSum, kReduce);
  cluster.waits(7, 1, 30, kSum, kReduce);
  cluster.report(5).state = RankState::kEnded;
  expect_has(first_line(cluster.ask(0, 1, 30)),
             "rank 5 on node2 has not entered all_reduce of "
             "group world (reduce) at step 812; it has ended");
  cluster.forget(5);
  const std::string text = cluster.ask(0, 1, 30);
  expect_has(first_line(text),
             "rank 5 has not entered all_reduce of group world (reduce) at step "
             "812; nothing was ever heard of it");
}

TEST(Diagnosis, SaysWhatOneRankKnowsWhereNobodyCanBeAsked) {
  Cluster cluster;
  cluster.waits(0, 2, 77, kRows, kDispatch);
  for (int64_t rank = 1; rank < 8; ++rank) cluster.forget(rank);
  EXPECT_EQ(
      cluster.ask(0, 2, 77),
      "rank 0 on node1 has lost the other ranks, and nobody can be asked: dispatch of layer 3 "
      "(forward) at step 812, waiting in all_to_all of rows of 64 float32, call 77 of group ep\n"
      "rank 0 on node1 reports: timed out");
}

// A rank that has not yet made the group is missed in the call that makes it.
TEST(Diagnosis, NamesAGroupThatIsNotMade) {
  Cluster cluster;
  const Signature make{Operation::kMakeGroup, at::kByte, 0, 7};
  for (const int64_t rank : {4, 5, 6}) cluster.waits(rank, 0, 2, make, {-1, "start"});
  cluster.report(7).groups.resize(1);
  expect_has(first_line(cluster.ask(4, 0, 2)),
             "rank 7 on node2 has not entered make_group of ep (start); last seen in forward");
}

TEST(Diagnosis, DoesNotTakeACheckpointForWhatTheRankDoesMeanwhile) {
  Cluster cluster;
  for (int64_t rank = 0; rank < 8; ++rank) cluster.report(rank).groups[1].name = "checkpoint";
  for (const int64_t rank : {0, 1, 2, 3, 4, 5, 6}) cluster.waits(rank, 1, 30, kSum, kDispatch);
  expect_has(first_line(cluster.ask(0, 1, 30)),
             "rank 7 on node2 has not entered all_reduce of group checkpoint at step 812; last ");
}

TEST(Diagnosis, ListsRanksShortly) {
  EXPECT_EQ(list_ranks({3}), "3");
  EXPECT_EQ(list_ranks({0, 1, 2, 3, 5, 7, 8}), "0-3, 5, 7, 8");
}

}  // namespace
}  // namespace locus::comm
