#include "locus/comm/board.h"

#include <pthread.h>

#include <chrono>
#include <condition_variable>
#include <csignal>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>

namespace locus::comm {
namespace {

using Clock = std::chrono::steady_clock;

constexpr double kAnswer_s = 3.0;
constexpr std::chrono::milliseconds kEnd{500}, kPoll{10};

Clock::duration duration(double seconds) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

}  // namespace

struct PatientStore::State {
  std::shared_ptr<Store> store;
  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::function<void(Store&)>> questions;
  int64_t num_asked = 0, num_answered = 0;
  Clock::time_point last_answer;  // or question, where there was nothing to answer
  bool is_lost = false;           // the connection
  bool is_ending = false, has_ended = false;

  void run() {
    sigset_t all;
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, nullptr);
    std::unique_lock lock(mutex);
    while (true) {
      changed.wait(lock, [this] { return is_ending || !questions.empty(); });
      if (questions.empty()) break;
      const std::function<void(Store&)> question = std::move(questions.front());
      questions.pop_front();
      lock.unlock();
      bool has_failed = false;
      try {
        question(*store);
      } catch (const std::exception&) {
        has_failed = true;
      }
      lock.lock();
      is_lost = is_lost || has_failed;
      ++num_answered;
      last_answer = Clock::now();
      changed.notify_all();
    }
    has_ended = true;
    changed.notify_all();
  }
};

PatientStore::PatientStore(std::shared_ptr<Store> store) : state_(std::make_shared<State>()) {
  state_->store = std::move(store);
  std::thread([state = state_] { state->run(); }).detach();
}

PatientStore::~PatientStore() {
  std::unique_lock lock(state_->mutex);
  state_->is_ending = true;
  state_->questions.clear();
  state_->changed.notify_all();
  state_->changed.wait_for(lock, kEnd, [this] { return state_->has_ended; });
}

bool PatientStore::ask(std::function<void(Store&)> question, double timeout_s) {
  const Clock::time_point now = Clock::now();
  std::unique_lock lock(state_->mutex);
  if (state_->num_asked == state_->num_answered) state_->last_answer = now;
  if (state_->is_lost || now - state_->last_answer > duration(timeout_s)) return false;
  state_->questions.push_back(std::move(question));
  const int64_t number = ++state_->num_asked;
  state_->changed.notify_all();
  return state_->changed.wait_until(lock, now + duration(timeout_s), [&] {
    return state_->num_answered >= number || state_->is_lost;
  }) && !state_->is_lost;
}

Board::Board(const std::vector<std::shared_ptr<Store>>& stores, std::string prefix)
    : prefix_(std::move(prefix)) {
  for (const std::shared_ptr<Store>& store : stores) {
    stores_.push_back(std::make_unique<PatientStore>(store));
    serves_.push_back(store->serves());
  }
}

void Board::post(const std::string& key, const std::string& text) {
  for (const auto& store : stores_) {
    store->ask([key = prefix_ + key, text](Store& asked) { asked.set(key, text); }, kAnswer_s);
  }
}

std::optional<std::vector<std::string>> Board::read(const std::vector<std::string>& keys) {
  for (const auto& store : stores_) {
    const auto texts = std::make_shared<std::vector<std::string>>();
    const auto question = [prefix = prefix_, keys, texts](Store& asked) {
      for (const std::string& key : keys) texts->push_back(asked.find(prefix + key).value_or(""));
    };
    if (store->ask(question, kAnswer_s)) return *texts;
  }
  return std::nullopt;
}

// In order: whoever was first in one store and later in the next is not the one.
std::optional<bool> Board::claim(const std::string& key) {
  bool has_answer = false;
  for (const auto& store : stores_) {
    const auto sum = std::make_shared<int64_t>(0);
    const auto question = [key = prefix_ + key, sum](Store& asked) { *sum = asked.add(key, 1); };
    if (!store->ask(question, kAnswer_s)) continue;
    if (*sum > 1) return false;
    has_answer = true;
  }
  return has_answer ? std::optional(true) : std::nullopt;
}

void Board::leave(int64_t num_ranks, double patience_s) {
  const auto count = [this](PatientStore& store, int64_t amount) {
    const auto sum = std::make_shared<int64_t>(0);
    const auto question = [key = prefix_ + "left", amount, sum](Store& asked) {
      *sum = asked.add(key, amount);
    };
    return store.ask(question, kAnswer_s) ? *sum : 0;
  };
  for (const auto& store : stores_) count(*store, 1);
  const Clock::time_point end = Clock::now() + duration(patience_s);
  for (size_t i = 0; i < stores_.size(); ++i) {
    while (serves_[i] && Clock::now() < end && count(*stores_[i], 0) < num_ranks) {
      std::this_thread::sleep_for(kPoll);
    }
  }
}

}  // namespace locus::comm
