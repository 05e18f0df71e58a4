// What a rank is doing, for those who ask why it does not come: where it is in its work, and which
// calls of its groups it has made. Each rank keeps one, comm/watchdog.h shows it to the others.
//
// `phase` and `what` are string literals: noting them costs no memory.
#pragma once

#include <ATen/core/Tensor.h>

#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "locus/comm/process_group.h"

namespace locus::comm {

enum class Operation : uint8_t {
  kMakeGroup,
  kAllReduce,
  kAllGather,
  kReduceScatter,
  kBroadcast,
  kAllToAll,
  kBarrier,
};

// What is the same on all ranks of a call. How many rows an all_to_all moves is not.
struct Signature {
  Operation operation = Operation::kBarrier;
  at::ScalarType type = at::kByte;
  int64_t count = 0;  // elements of x; of a row for all_to_all; of the list for make_group
  int64_t detail =
      0;  // which reduction; the root of a broadcast; a hash of the list for make_group

  bool operator==(const Signature&) const = default;
};
std::string to_text(const Signature& signature);  // "all_reduce of 25 float32 (sum)"

struct Place {
  int64_t step = -1;  // that is being worked on, as finished steps so far + 1; -1: none yet
  const char* phase = "start";
  const char* what = "";  // in the phase: "dispatch"
  int64_t layer = -1;     // of `what`
};

enum class CallState : uint8_t { kStarted, kWaiting, kDone };  // kWaiting: a thread waits for it

struct Call {
  int64_t number = 0;  // 1, 2, ... in its group
  Signature signature;
  Place place;  // where its rank was when it made it
  CallState state = CallState::kStarted;
  double since_s = 0.0;  // how long a thread has waited
};

// One group as one of its members sees it.
struct GroupReport {
  static constexpr int64_t kKeptCalls = 256;

  int64_t index = 0;  // of the transport's calls of make_group, the same on all ranks; 0: the
                      // group of all ranks that these calls themselves are numbered in
  std::string name;
  std::vector<int64_t> ranks;
  int64_t num_calls = 0;
  uint64_t hash = 0;                       // of the signatures of all calls
  std::array<Call, kKeptCalls> kept = {};  // the newest, each at number % kKeptCalls

  const Call* find(int64_t number) const {  // null: not made, or no longer kept
    const Call& call = kept[static_cast<size_t>(number % kKeptCalls)];
    return number > 0 && call.number == number ? &call : nullptr;
  }
};

enum class RankState : uint8_t {
  kRunning,
  kFailed,  // a call has failed
  kEnded,   // cleanly
  kBroken,  // by an error of its own, which it tells itself
};

struct RankReport {
  std::string host;
  RankState state = RankState::kRunning;
  double time_s = 0.0;  // of the system's clock when it was made
  Place place;
  std::vector<GroupReport> groups;

  // The longest of the calls that a thread of the rank waits for, and its group.
  std::optional<std::pair<const GroupReport*, const Call*>> waits_in() const;
};
// With the newest `max_calls` of each group, and those that are not done.
std::string to_text(const RankReport& report, int64_t max_calls = GroupReport::kKeptCalls);
RankReport parse_rank_report(const std::string& text);  // of what to_text() made

// Many threads may use one.
class Activity {
 public:
  Activity(int64_t world_size, std::string host);

  void set_step(int64_t step);
  void set_phase(const char* phase);
  void set_state(RankState state);
  Place place() const;
  void set_what(const char* what, int64_t layer);

  // The place of a new group in this object; 0 is that of make_group itself.
  size_t add_group(const std::string& name, const std::vector<int64_t>& ranks, int64_t index);
  // The number of the call.
  int64_t enter(size_t group, const Signature& signature);
  void wait_begins(size_t group, int64_t number) { set_call(group, number, CallState::kWaiting); }
  void is_done(size_t group, int64_t number) { set_call(group, number, CallState::kDone); }
  uint64_t hash(size_t group) const;

  RankReport report() const;

 private:
  void set_call(size_t group, int64_t number, CallState state);

  mutable std::mutex mutex_;
  RankReport report_;  // with times of the steady clock in place of `since_s`
};

// Of a rank alone, `activity` is null: nothing is noted.
inline void note_step(const std::shared_ptr<Activity>& activity, int64_t step) {
  if (activity != nullptr) activity->set_step(step);
}
inline void note_phase(const std::shared_ptr<Activity>& activity, const char* phase) {
  if (activity != nullptr) activity->set_phase(phase);
}

// What the rank does as long as this lives; then again what it did before.
class Note {
 public:
  Note(std::shared_ptr<Activity> activity, const char* what, int64_t layer = -1)
      : activity_(std::move(activity)) {
    if (activity_ == nullptr) return;
    before_ = activity_->place();
    activity_->set_what(what, layer);
  }
  ~Note() {
    if (activity_ != nullptr) activity_->set_what(before_.what, before_.layer);
  }
  Note(const Note&) = delete;
  Note& operator=(const Note&) = delete;

 private:
  std::shared_ptr<Activity> activity_;
  Place before_;
};

}  // namespace locus::comm
