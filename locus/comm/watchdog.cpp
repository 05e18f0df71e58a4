#include "locus/comm/watchdog.h"

#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <exception>

namespace locus::comm {
namespace {

using Clock = std::chrono::steady_clock;

// Between posts; where deadlines are short, several in each. Short after a failure.
constexpr double kInterval_s = 1.0;
constexpr double kIntervalsInTimeout = 5.0;
constexpr double kShortInterval_s = 0.1;
// A thread that shares its core with others may be late with its answer.
constexpr double kIntervalsToAnswer = 1.5;
constexpr double kAnswerAtLeast_s = 1.0;
// Until another rank has told the user; until this one has come to an orderly end.
constexpr double kMessage_s = 15.0;
constexpr double kOrderlyEnd_s = 3.0;
// A rank that serves a store to others waits so long for them at its end; after a failure, until
// every watchdog has looked once.
constexpr double kLeave_s = 2.0, kLeaveFailed_s = 2.5;
// Of each group, in the posts of a rank that is well.
constexpr int64_t kPostedCalls = 4;

constexpr const char* kFailed = "failed";    // a rank has a call that failed
constexpr const char* kSpeaker = "speaker";  // the one that tells
constexpr const char* kTold = "told";

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

Clock::duration duration(double seconds) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

double system_s() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

std::string report_key(int64_t rank) { return format("rank/{}", rank); }
// What a rank posts that has heard of a failure.
std::string answer_key(int64_t rank) { return format("answer/{}", rank); }

}  // namespace

Watchdog::Watchdog(const WatchdogSettings& settings,
                   const std::vector<std::shared_ptr<Store>>& stores)
    : settings_(settings),
      interval_s_(std::min(kInterval_s, settings.timeout_s / kIntervalsInTimeout)),
      activity_(std::make_shared<Activity>(settings.world_size, settings.host)),
      board_(stores, format("watch/{}/", settings.start)) {
  thread_ = std::thread([this] { run(); });
}

Watchdog::~Watchdog() {
  {
    const std::lock_guard lock(mutex_);
    is_ending_ = true;
  }
  ends_.notify_all();
  thread_.join();
  if (has_failed_) {
    // Whatever is left to destroy may wait for a rank that does not come.
    if (settings_.end) {
      std::thread([end = settings_.end] {
        std::this_thread::sleep_for(duration(kOrderlyEnd_s));
        end();
      }).detach();
    }
  } else {
    activity_->set_state(std::uncaught_exceptions() > 0 ? RankState::kBroken : RankState::kEnded);
    post(report_key(rank()), GroupReport::kKeptCalls);
  }
  board_.leave(world_size(), has_failed_ ? kLeaveFailed_s : kLeave_s);
}

void Watchdog::run() {
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, nullptr);  // signals are the program's business
  std::unique_lock lock(mutex_);
  while (!is_ending_) {
    lock.unlock();
    post(report_key(rank()), kPostedCalls);
    if (has_to_end() && settings_.end) settings_.end();
    check_waits();
    lock.lock();
    const double pause_s = failed_at_ ? std::min(kShortInterval_s, interval_s_) : interval_s_;
    ends_.wait_for(lock, duration(pause_s), [this] { return is_ending_; });
  }
}

// Answers when a rank has failed. True when all has been told and there was time to end.
bool Watchdog::has_to_end() {
  if (!failed_at_ && is_posted(kFailed) && !has_failed_) others_know_ = true;
  if (!failed_at_ && (has_failed_ || others_know_)) failed_at_ = Clock::now();
  if (!failed_at_) return false;
  if (!has_answered_) post(answer_key(rank()), GroupReport::kKeptCalls);
  has_answered_ = true;
  if (!over_at_ && (is_over_ || is_posted(kTold))) over_at_ = Clock::now();
  return (over_at_ && seconds_since(*over_at_) > kOrderlyEnd_s) ||
         seconds_since(*failed_at_) > kMessage_s + kOrderlyEnd_s;
}

// For libraries that do not keep their deadline. Ranks that are threads cannot be ended.
void Watchdog::check_waits() {
  if (has_failed_ || !settings_.end) return;
  const RankReport report = activity_->report();
  const auto waiting = report.waits_in();
  if (!waiting || waiting->second->since_s < settings_.timeout_s + settings_.grace_s) return;
  try {
    fail(format("no answer in {:.0f} s", waiting->second->since_s));
  } catch (const CommError&) {
    // The thread that waits cannot be reached. The next look ends the process.
  }
}

void Watchdog::post(const std::string& key, int64_t max_calls) {
  board_.post(key, to_text(activity_->report(), max_calls));
}

bool Watchdog::is_posted(const std::string& key) {
  const auto texts = board_.read({key});
  return texts && !texts->front().empty();
}

void Watchdog::fail(const Failure& failure) {
  const std::lock_guard lock(failing_);
  std::string message;
  if (!has_failed_) {
    activity_->set_state(RankState::kFailed);
    has_failed_ = true;
    message = find_out(failure);
    is_over_ = true;
  }
  if (!message.empty() && settings_.tell) settings_.tell(message);
  board_.post(kTold, "yes");
  if (!message.empty() && !settings_.tell) throw CommError("{}", message);
  throw ToldCommError("{}; the message of another rank says why", failure.reason);
}

void Watchdog::fail(const std::string& reason) {
  const RankReport report = activity_->report();
  Failure failure{rank(), -1, 0, reason};
  if (const auto waiting = report.waits_in()) {
    failure.group = waiting->first->index;
    failure.number = waiting->second->number;
  }
  fail(failure);
}

// The message; empty where another rank has told it or will.
std::string Watchdog::find_out(const Failure& failure) {
  post(answer_key(rank()), GroupReport::kKeptCalls);
  board_.post(kFailed, "yes");
  const std::optional<bool> is_speaker = board_.claim(kSpeaker);
  if (is_speaker && *is_speaker) return ask_all(failure);
  const Clock::time_point begin = Clock::now();
  while (is_speaker && seconds_since(begin) < kMessage_s) {
    if (is_posted(kTold)) return "";
    std::this_thread::sleep_for(duration(kShortInterval_s));
  }
  if (others_know_) return "";  // they went away before this rank felt it
  // Nobody can be asked.
  std::vector<Heard> own(static_cast<size_t>(world_size()));
  own[static_cast<size_t>(rank())].report = activity_->report();
  return diagnose(own, failure);
}

std::string Watchdog::ask_all(const Failure& failure) {
  const double patience_s = kAnswerAtLeast_s + kIntervalsToAnswer * interval_s_;
  const Clock::time_point begin = Clock::now();
  bool all_answered = false;
  std::vector<Heard> heard = hear(&all_answered);
  while (!all_answered && seconds_since(begin) < patience_s) {
    std::this_thread::sleep_for(duration(kShortInterval_s));
    heard = hear(&all_answered);
  }
  return diagnose(heard, failure);
}

std::vector<Heard> Watchdog::hear(bool* all_answered) {
  std::vector<std::string> keys;
  for (int64_t rank = 0; rank < world_size(); ++rank) {
    keys.push_back(answer_key(rank));
    keys.push_back(report_key(rank));
  }
  const std::vector<std::string> texts =
      board_.read(keys).value_or(std::vector<std::string>(keys.size()));
  std::vector<Heard> heard(static_cast<size_t>(world_size()));
  *all_answered = true;
  for (size_t rank = 0; rank < heard.size(); ++rank) {
    const std::string& answer = texts[2 * rank];
    const std::string& last = texts[2 * rank + 1];
    Heard& one = heard[rank];
    if (!last.empty()) one.report = parse_rank_report(last);
    const bool has_left = one.report && (one.report->state == RankState::kEnded ||
                                         one.report->state == RankState::kBroken);
    if (has_left) continue;
    if (!answer.empty()) {
      one.report = parse_rank_report(answer);
      continue;
    }
    one.is_silent = true;
    *all_answered = false;
    if (one.report) one.ago_s = std::max(0.0, system_s() - one.report->time_s);
  }
  return heard;
}

}  // namespace locus::comm
