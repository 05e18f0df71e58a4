// A thread that carries rows through several stages while its rank computes. Jobs run one after the
// other in the order in which they are handed over, so that all ranks call their groups in one
// order.
#pragma once

#include <ATen/core/Tensor.h>

#include <condition_variable>
#include <deque>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <thread>

namespace locus::comm {

class RowsInFlight {
 public:
  virtual ~RowsInFlight() = default;
  // Once. CommError where a peer was lost or the deadline has passed.
  virtual at::Tensor wait() = 0;
};

class Courier {
 public:
  Courier();
  ~Courier();  // after the jobs that are under way
  Courier(const Courier&) = delete;
  Courier& operator=(const Courier&) = delete;

  // `job` keeps all it needs alive, but not the courier: it may be the last to go. Its tensors are
  // made without gradients, on one thread.
  std::unique_ptr<RowsInFlight> carry(std::function<at::Tensor()> job);

 private:
  void run();

  std::mutex mutex_;
  std::condition_variable more_;
  std::deque<std::packaged_task<at::Tensor()>> jobs_;
  bool is_ending_ = false;
  std::thread thread_;
};

}  // namespace locus::comm
