// A fixed number of threads that work on a queue.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <type_traits>
#include <utility>
#include <vector>

namespace locus {

class ThreadPool {
 public:
  // 0: one for each core. std::system_error when the system gives no more threads.
  explicit ThreadPool(int64_t num_threads);
  // Drops the tasks that no thread has begun and waits for the others. The futures of dropped tasks
  // throw std::future_error.
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  // Tasks begin in the order of submission. The future gives the task's result or its exception.
  // Any thread may submit.
  template <class Task>
  auto submit(Task task) -> std::future<std::invoke_result_t<Task&>> {
    using Result = std::invoke_result_t<Task&>;
    // std::function wants a copyable callable, a packaged_task is none.
    auto shared = std::make_shared<std::packaged_task<Result()>>(std::move(task));
    std::future<Result> result = shared->get_future();
    enqueue([shared] { (*shared)(); });
    return result;
  }

  int64_t num_threads() const { return static_cast<int64_t>(threads_.size()); }

  // The cores that this process may run on, at least 1.
  static int64_t num_cores();
  // Which these are, as "0-3,8"; "any" where the system does not say.
  static std::string cores_text();

 private:
  void enqueue(std::function<void()> task);
  void work();
  void stop();

  std::mutex mutex_;
  std::condition_variable ready_;
  std::deque<std::function<void()>> queue_;  // guarded by mutex_
  bool stop_ = false;                        // guarded by mutex_
  std::vector<std::thread> threads_;
};

}  // namespace locus
