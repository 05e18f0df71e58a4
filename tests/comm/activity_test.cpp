#include "locus/comm/activity.h"

#include <gtest/gtest.h>

namespace locus::comm {
namespace {

Signature sum_of(int64_t count) {
  return {Operation::kAllReduce, at::kFloat, count, static_cast<int64_t>(Reduce::kSum)};
}

TEST(Activity, ComesBackFromItsText) {
  const auto activity = std::make_shared<Activity>(3, "node2");
  note_step(activity, 812);
  note_phase(activity, "optimizer step");
  const Note note(activity, "dispatch", 3);
  const size_t group = activity->add_group("ep", {0, 2}, 4);
  const int64_t first = activity->enter(group, sum_of(25));
  activity->is_done(group, first);
  const int64_t second = activity->enter(group, {Operation::kAllToAll, at::kBFloat16, 64});
  activity->wait_begins(group, second);

  const RankReport said = parse_rank_report(to_text(activity->report()));
  EXPECT_EQ(said.host, "node2");
  EXPECT_EQ(said.state, RankState::kRunning);
  EXPECT_EQ(said.place.step, 812);
  EXPECT_STREQ(said.place.phase, "optimizer step");
  EXPECT_STREQ(said.place.what, "dispatch");
  EXPECT_EQ(said.place.layer, 3);
  ASSERT_EQ(said.groups.size(), 2U) << "that of all ranks and that of this test";
  const GroupReport& ep = said.groups[1];
  EXPECT_EQ(ep.index, 4);
  EXPECT_EQ(ep.name, "ep");
  EXPECT_EQ(ep.ranks, (std::vector<int64_t>{0, 2}));
  EXPECT_EQ(ep.num_calls, 2);
  EXPECT_EQ(ep.hash, activity->hash(group));
  ASSERT_NE(ep.find(1), nullptr);
  EXPECT_EQ(to_text(ep.find(1)->signature), "all_reduce of 25 float32 (sum)");
  EXPECT_EQ(ep.find(1)->state, CallState::kDone);
  EXPECT_EQ(to_text(ep.find(2)->signature), "all_to_all of rows of 64 bfloat16");
  EXPECT_STREQ(ep.find(2)->place.what, "dispatch");
  EXPECT_EQ(ep.find(3), nullptr);
  const auto waiting = said.waits_in();
  ASSERT_TRUE(waiting.has_value());
  EXPECT_EQ(waiting->second->number, 2);
}

TEST(Activity, IsAfterANoteWhatItWasBefore) {
  const auto activity = std::make_shared<Activity>(1, "host");
  const Note outer(activity, "dispatch", 1);
  {
    const Note inner(activity, "combine", 2);
    EXPECT_STREQ(activity->place().what, "combine");
  }
  EXPECT_STREQ(activity->place().what, "dispatch");
  EXPECT_EQ(activity->place().layer, 1);
  const Note nothing(nullptr, "dispatch");  // a rank alone
}

TEST(Activity, KeepsTheNewestCallsAndThoseThatAreOpen) {
  Activity activity(1, "host");
  const size_t group = activity.add_group("world", {0}, 1);
  const int64_t open = activity.enter(group, sum_of(1));
  for (int64_t i = 2; i <= 200; ++i) activity.is_done(group, activity.enter(group, sum_of(i)));
  const RankReport said = parse_rank_report(to_text(activity.report(), 4));
  EXPECT_EQ(said.groups[1].num_calls, 200);
  EXPECT_NE(said.groups[1].find(open), nullptr);
  EXPECT_EQ(said.groups[1].find(196), nullptr);
  for (int64_t number = 197; number <= 200; ++number) {
    ASSERT_NE(said.groups[1].find(number), nullptr);
    EXPECT_EQ(said.groups[1].find(number)->signature.count, number);
  }
}

TEST(Activity, HashesEveryCallInItsOrder) {
  const auto hash_of_calls = [](const std::vector<Signature>& calls) {
    Activity activity(1, "host");
    for (const Signature& call : calls) activity.enter(0, call);
    return activity.hash(0);
  };
  const Signature a = sum_of(3), b = sum_of(4);
  EXPECT_EQ(hash_of_calls({a, b}), hash_of_calls({a, b}));
  EXPECT_NE(hash_of_calls({a, b}), hash_of_calls({b, a}));
  EXPECT_NE(hash_of_calls({a}), hash_of_calls({a, a}));
  Signature other = a;
  other.type = at::kInt;
  EXPECT_NE(hash_of_calls({a}), hash_of_calls({other}));
  other = a;
  other.detail = static_cast<int64_t>(Reduce::kMax);
  EXPECT_NE(hash_of_calls({a}), hash_of_calls({other}));
}

}  // namespace
}  // namespace locus::comm
