#include <algorithm>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

#include "locus/base/error.h"
#include "locus/data/loader.h"

namespace locus::data {

struct PrefetchingLoader::State {
  std::shared_ptr<const SampleSource> source;
  int64_t global_batch_size;
  int64_t micro_batch_size;
  BatchShare share;
  size_t prefetch;
  int64_t step;  // the next one to prepare; belongs to the thread once there is one

  std::mutex mutex;
  std::condition_variable changed;
  std::deque<std::vector<Batch>> ready;
  std::exception_ptr error;
  bool stop = false;
  std::thread thread;

  PlaceSequences place;  // null: they stay as they come

  std::vector<Batch> prepare_step();
  Batch placed_batch(int64_t first, int64_t count) const;
  void run();
};

std::vector<Batch> PrefetchingLoader::State::prepare_step() {
  const int64_t begin = step * global_batch_size;
  std::vector<Batch> batches;
  const int64_t own = share.rank * micro_batch_size;
  const int64_t stride = share.num_ranks * micro_batch_size;
  for (int64_t offset = own; offset < global_batch_size; offset += stride) {
    batches.push_back(place ? placed_batch(begin + offset - own, stride)
                            : source->training_batch(begin + offset, micro_batch_size));
    for (int64_t& index : batches.back().global_sequence_index) index -= begin;
  }
  step += 1;
  return batches;
}

// This rank's of the `count` sequences from `first` that the ranks compute together.
Batch PrefetchingLoader::State::placed_batch(int64_t first, int64_t count) const {
  const std::vector<int64_t> order = place(step, source->tokens_by_domain(first, count));
  LOCUS_CHECK(std::ssize(order) == count, "{} places for {} sequences", order.size(), count);
  std::vector<int64_t> numbers(static_cast<size_t>(micro_batch_size));
  for (size_t i = 0; i < numbers.size(); ++i) {
    numbers[i] = first + order[static_cast<size_t>(share.rank * micro_batch_size) + i];
  }
  Batch batch = source->training_batch(numbers);
  batch.is_placed = !std::is_sorted(order.begin(), order.end());
  return batch;
}

void PrefetchingLoader::State::run() {
  try {
    while (true) {
      std::vector<Batch> batches = prepare_step();
      std::unique_lock lock(mutex);
      changed.wait(lock, [&] { return stop || ready.size() < prefetch; });
      if (stop) return;
      ready.push_back(std::move(batches));
      changed.notify_all();
    }
  } catch (...) {
    const std::lock_guard lock(mutex);
    error = std::current_exception();
    changed.notify_all();
  }
}

PrefetchingLoader::PrefetchingLoader(std::shared_ptr<const SampleSource> source,
                                     int64_t global_batch_size, int64_t micro_batch_size,
                                     int64_t first_step, int64_t prefetch, const BatchShare& share,
                                     PlaceSequences place)
    : state_(std::make_unique<State>()) {
  LOCUS_CHECK(share.rank >= 0 && share.rank < share.num_ranks, "rank {} of {}", share.rank,
              share.num_ranks);
  LOCUS_CHECK(micro_batch_size > 0 && global_batch_size > 0 &&
                  global_batch_size % (micro_batch_size * share.num_ranks) == 0,
              "global batch {}, micro-batch {}, {} ranks", global_batch_size, micro_batch_size,
              share.num_ranks);
  LOCUS_CHECK(first_step >= 0 && prefetch >= 0, "step {}, prefetch {}", first_step, prefetch);
  source->check_trainable();
  state_->source = std::move(source);
  state_->global_batch_size = global_batch_size;
  state_->micro_batch_size = micro_batch_size;
  state_->share = share;
  state_->place = std::move(place);
  state_->prefetch = static_cast<size_t>(prefetch);
  state_->step = first_step;
  if (prefetch > 0) state_->thread = std::thread([state = state_.get()] { state->run(); });
}

PrefetchingLoader::~PrefetchingLoader() {
  {
    const std::lock_guard lock(state_->mutex);
    state_->stop = true;
  }
  state_->changed.notify_all();
  if (state_->thread.joinable()) state_->thread.join();
}

std::vector<Batch> PrefetchingLoader::next() {
  if (state_->prefetch == 0) return state_->prepare_step();
  std::unique_lock lock(state_->mutex);
  state_->changed.wait(lock, [&] { return !state_->ready.empty() || state_->error; });
  if (state_->ready.empty()) std::rethrow_exception(state_->error);
  std::vector<Batch> batches = std::move(state_->ready.front());
  state_->ready.pop_front();
  state_->changed.notify_all();
  return batches;
}

}  // namespace locus::data
