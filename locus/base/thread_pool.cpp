#include "locus/base/thread_pool.h"

#include <sched.h>

#include <algorithm>

#include "locus/base/error.h"
#include "locus/base/format.h"

namespace locus {

int64_t ThreadPool::num_cores() {
  // The affinity mask, unlike hardware_concurrency() of some libraries, respects taskset and srun.
  cpu_set_t cores;
  CPU_ZERO(&cores);
  if (::sched_getaffinity(0, sizeof(cores), &cores) == 0) return std::max(1, CPU_COUNT(&cores));
  return std::max<int64_t>(1, std::thread::hardware_concurrency());
}

std::string ThreadPool::cores_text() {
  cpu_set_t cores;
  CPU_ZERO(&cores);
  if (::sched_getaffinity(0, sizeof(cores), &cores) != 0) return "any";
  std::string text;
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (!CPU_ISSET(core, &cores)) continue;
    int last = core;
    while (last + 1 < CPU_SETSIZE && CPU_ISSET(last + 1, &cores)) ++last;
    text += text.empty() ? "" : ",";
    text += last > core ? format("{}-{}", core, last) : format("{}", core);
    core = last;
  }
  return text;
}

ThreadPool::ThreadPool(int64_t num_threads) {
  LOCUS_CHECK(num_threads >= 0, "got {} threads", num_threads);
  if (num_threads == 0) num_threads = num_cores();
  threads_.reserve(static_cast<size_t>(num_threads));
  try {
    for (int64_t i = 0; i < num_threads; ++i) threads_.emplace_back([this] { work(); });
  } catch (...) {
    stop();  // no destructor runs, and a thread that is not joined ends the process
    throw;
  }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
  {
    std::deque<std::function<void()>> dropped;  // outlives the lock: its tasks may own anything
    const std::lock_guard lock(mutex_);
    stop_ = true;
    dropped.swap(queue_);
  }
  ready_.notify_all();
  for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::enqueue(std::function<void()> task) {
  {
    const std::lock_guard lock(mutex_);
    queue_.push_back(std::move(task));
  }
  ready_.notify_one();
}

void ThreadPool::work() {
  while (true) {
    std::function<void()> task;
    {
      std::unique_lock lock(mutex_);
      ready_.wait(lock, [this] { return stop_ || !queue_.empty(); });
      if (stop_) return;
      task = std::move(queue_.front());
      queue_.pop_front();
    }
    task();
  }
}

}  // namespace locus
