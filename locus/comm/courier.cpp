#include "locus/comm/courier.h"

#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

namespace locus::comm {
namespace {

class Carried : public RowsInFlight {
 public:
  explicit Carried(std::future<at::Tensor> rows) : rows_(std::move(rows)) {}
  // What is in flight belongs to tensors and groups that go away after this.
  ~Carried() override {
    if (rows_.valid()) rows_.wait();
  }
  at::Tensor wait() override { return rows_.get(); }

 private:
  std::future<at::Tensor> rows_;
};

}  // namespace

Courier::Courier() : thread_([this] { run(); }) {}

Courier::~Courier() {
  {
    const std::lock_guard lock(mutex_);
    is_ending_ = true;
  }
  more_.notify_one();
  thread_.join();
}

std::unique_ptr<RowsInFlight> Courier::carry(std::function<at::Tensor()> job) {
  std::packaged_task<at::Tensor()> task(std::move(job));
  auto rows = std::make_unique<Carried>(task.get_future());
  {
    const std::lock_guard lock(mutex_);
    jobs_.push_back(std::move(task));
  }
  more_.notify_one();
  return rows;
}

void Courier::run() {
  at::set_num_threads(1);
  const at::NoGradGuard no_grad;
  while (true) {
    std::unique_lock lock(mutex_);
    more_.wait(lock, [this] { return is_ending_ || !jobs_.empty(); });
    if (jobs_.empty()) return;
    std::packaged_task<at::Tensor()> job = std::move(jobs_.front());
    jobs_.pop_front();
    lock.unlock();
    job();
  }
}

}  // namespace locus::comm
