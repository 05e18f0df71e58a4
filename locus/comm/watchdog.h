// Watches over the calls of a rank, and finds out why one does not end.
//
// A thread posts what this rank does (comm/activity.h) on a board that all ranks read, about once a
// second. When a call fails, or takes longer than its deadline, all ranks hear of it there and say
// what they do; one of them reads it all and tells who is to blame; then all end.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "locus/base/error.h"
#include "locus/comm/activity.h"
#include "locus/comm/board.h"
#include "locus/comm/diagnosis.h"
#include "locus/comm/store.h"

namespace locus::comm {

// The ranks have lost one another, and the user has been told so already: by this rank or another.
class ToldCommError : public CommError {
 public:
  using CommError::CommError;
  bool is_told_elsewhere() const noexcept override { return true; }
};

struct WatchdogSettings {
  int64_t rank = 0, world_size = 1;
  std::string host;
  double timeout_s = 600.0;
  double grace_s = 5.0;  // for a transport to say itself that this has passed
  int64_t start = 0;     // sets apart starts of one job that share a store
  // Tells the user, and ends the process at once, with exit code 4. Without them (ranks that are
  // threads of one process) the rank that would tell throws the message instead, and nothing ends.
  std::function<void(const std::string& message)> tell = {};
  std::function<void()> end = {};
};

class Watchdog {
 public:
  // `stores`: connections for it alone.
  Watchdog(const WatchdogSettings& settings, const std::vector<std::shared_ptr<Store>>& stores);
  // Says whether this rank has ended well, or by an error that is under way.
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

  int64_t rank() const { return settings_.rank; }
  int64_t world_size() const { return settings_.world_size; }
  const std::shared_ptr<Activity>& activity() const { return activity_; }

  // After a call has failed: finds out why, together with the other ranks, and throws the CommError
  // that says it. `failure.rank` is this one.
  [[noreturn]] void fail(const Failure& failure);
  // The same, for other threads: in the call that this rank has waited for longest, or in none.
  [[noreturn]] void fail(const std::string& reason);

 private:
  void run();
  bool has_to_end();
  void check_waits();
  void post(const std::string& key, int64_t max_calls);
  bool is_posted(const std::string& key);
  std::string find_out(const Failure& failure);
  std::string ask_all(const Failure& failure);
  std::vector<Heard> hear(bool* all_answered);

  const WatchdogSettings settings_;
  const double interval_s_;
  std::shared_ptr<Activity> activity_;
  Board board_;

  std::mutex failing_;  // one thread at a time fails
  std::atomic<bool> has_failed_ = false;
  std::atomic<bool> is_over_ = false;      // this rank knows why
  std::atomic<bool> others_know_ = false;  // another rank has failed before this one

  // Of the thread alone.
  using Clock = std::chrono::steady_clock;
  bool has_answered_ = false;
  std::optional<Clock::time_point> failed_at_, over_at_;

  std::mutex mutex_;
  std::condition_variable ends_;
  bool is_ending_ = false;
  std::thread thread_;
};

}  // namespace locus::comm
