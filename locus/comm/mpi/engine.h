// MPI in this process: its start and end, the one lock around its calls, and the thread that keeps
// operations moving while the program computes.
//
// MPI works on transfers only inside its calls. So somebody has to call it: the thread that waits
// for a result, or, as long as none waits, a thread of the engine. One lock around all calls asks
// the least of an MPI library (MPI_THREAD_SERIALIZED) and spares the locks inside it.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/util/SmallVector.h>
#include <mpi.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace locus::comm {

// What messages and calls need of a group.
struct Members {
  std::string name;
  MPI_Comm comm = MPI_COMM_NULL;
  int rank = 0, size = 1;
};

// An operation in flight; until it is done, only the holder of the engine's lock touches it.
struct Operation {
  const char* name = "";
  std::shared_ptr<const Members> members;
  c10::SmallVector<MPI_Request, 16> requests;
  c10::SmallVector<at::Tensor, 4> tensors;  // MPI reads and writes them until it is done
  std::function<void()> finish;  // what is left to do then, by the thread that waits; or none
  int64_t num_bytes = 0;         // of the largest tensor
  std::atomic<bool> is_done = false;
  std::chrono::steady_clock::time_point begin = std::chrono::steady_clock::now();
};

class Engine {
 public:
  // Starts MPI. `max_count`: see kMpiMaxCount.
  Engine(double timeout_s, int64_t max_count);
  // Ends MPI, unless it has failed or an exception is under way.
  ~Engine();
  Engine(const Engine&) = delete;
  Engine& operator=(const Engine&) = delete;

  int64_t rank() const { return world_->rank; }
  int64_t world_size() const { return world_->size; }
  int64_t max_count() const { return max_count_; }

  // `post()` begins the operation with calls of MPI, and adds their requests to it.
  template <class Post>
  void start(const std::shared_ptr<Operation>& operation, Post post) {
    {
      const std::lock_guard lock(mutex_);
      throw_if_failed();
      open_.push_back(operation);  // first: whatever happens, its tensors outlive its requests
      ++num_open_;
      open_bytes_ += operation->num_bytes;
      post();
    }
    if (needs_call()) call();
  }

  // Until it is done. CommError where it failed or the deadline has passed; the engine is then of
  // no further use. Urgent: nothing else is to do on this rank, so the thread looks all the time at
  // first; otherwise it leaves the cores to those that compute.
  void wait(const Operation& operation, bool is_urgent = true);

  // For members only, which all call it. Waits for them, with the deadline.
  std::shared_ptr<const Members> make_members(const std::string& name,
                                              const std::vector<int64_t>& ranks, int64_t number);

  // The result of a call of MPI. CommError where it failed; the lock is held.
  void check(int code, const char* call, const Operation& operation);

 private:
  void start_mpi();
  void meet(const std::string& name, const std::vector<int64_t>& ranks, int64_t number);
  MPI_Comm make_comm(const std::vector<int64_t>& ranks, int64_t number, const Operation& operation);
  void end_mpi();
  bool poll(const Operation& operation, int num_times);
  // The lock is held in these.
  void test_open();
  void test(Operation& operation);
  void fail(const std::string& text);
  void throw_if_failed() const;

  // What the engine's thread does: sleep until it is called; look now and then whether it is
  // needed, because operations follow one another; keep those in flight moving.
  enum class Pace { kAsleep, kWatching, kPolling };
  void run();
  void sleep(std::chrono::microseconds time);
  bool needs_call() const;
  void call();

  const double timeout_s_;
  const int64_t max_count_;
  std::shared_ptr<Members> world_;

  std::mutex mutex_;
  std::vector<std::shared_ptr<Operation>> open_;
  std::vector<MPI_Comm> comms_;  // in order of creation, which is the same on all ranks
  std::vector<MPI_Status> statuses_;
  std::string failure_;  // the first, which ends all use

  std::atomic<int64_t> num_open_ = 0, open_bytes_ = 0;
  std::atomic<int> num_waiting_ = 0;
  std::atomic<Pace> pace_ = Pace::kWatching;
  std::atomic<bool> is_ending_ = false;
  std::mutex sleep_mutex_;  // taken alone
  std::condition_variable call_;
  bool is_called_ = false;
  std::thread thread_;
};

}  // namespace locus::comm
