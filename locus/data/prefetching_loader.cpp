#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>

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

  std::vector<Batch> prepare_step();
  void run();
};

std::vector<Batch> PrefetchingLoader::State::prepare_step() {
  const int64_t begin = step * global_batch_size;
  std::vector<Batch> batches;
  const int64_t own = share.rank * micro_batch_size;
  const int64_t stride = share.num_ranks * micro_batch_size;
  for (int64_t offset = own; offset < global_batch_size; offset += stride) {
    batches.push_back(source->training_batch(begin + offset, micro_batch_size));
    for (int64_t& index : batches.back().global_sequence_index) index -= begin;
  }
  step += 1;
  return batches;
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
                                     int64_t first_step, int64_t prefetch, const BatchShare& share)
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
