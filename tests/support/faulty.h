// Fault injection: a transport whose groups do something wrong in chosen calls.
//
//   make_faulty_transport(real, {{.kind = Fault::kCorrupt, .group = "ep", .rank = 1, .call = 3}})
//
// spoils the result of rank 1 in the fourth call of its group "ep". Every rank may be given the
// same list. All kinds of calls count, from 0, for each name of a group;
// make_parallel_context() makes the first ones of "world".
#pragma once

#include <ATen/core/Tensor.h>

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "locus/base/error.h"
#include "locus/comm/process_group.h"

namespace locus::test {

struct Fault {
  enum Kind {
    kDrop,     // this rank never takes part; wait() throws CommError after `seconds`
    kDelay,    // starts at once, is not done before `seconds` have passed
    kCorrupt,  // all bits of one byte of the result are the wrong way round
    kFail,     // the call throws CommError
    kDie,      // the call calls `die` first
  };
  Kind kind = kFail;
  std::string group;
  int64_t rank = 0;  // in the world
  int64_t call = 0;
  double seconds = 0.0;
  int64_t byte = 0;  // which one of the result
  std::function<void()> die = {};
};

namespace detail {

using Clock = std::chrono::steady_clock;

class FaultyWork : public comm::Work {
 public:
  // `real` is null where the call was dropped. `result` is undefined where there is none.
  FaultyWork(comm::Pending real, const Fault& fault, std::string what, at::Tensor result)
      : real_(std::move(real)),
        fault_(fault),
        what_(std::move(what)),
        result_(std::move(result)),
        end_(Clock::now() + std::chrono::nanoseconds(static_cast<int64_t>(fault.seconds * 1e9))) {}
  ~FaultyWork() override {
    try {
      wait();
    } catch (const CommError&) {
      // Whoever cares has called wait().
    }
  }

  bool is_done() override { return real_ != nullptr && real_->is_done() && Clock::now() >= end_; }

  void wait() override {
    if (is_over_) return;
    is_over_ = true;
    if (real_ != nullptr) real_->wait();
    std::this_thread::sleep_until(end_);
    if (real_ == nullptr) throw CommError("{} was dropped", what_);
    if (fault_.kind != Fault::kCorrupt) return;
    LOCUS_CHECK(fault_.byte < static_cast<int64_t>(result_.nbytes()), "{} has no byte {}", what_,
                fault_.byte);
    auto* byte = static_cast<uint8_t*>(result_.mutable_data_ptr()) + fault_.byte;
    *byte = static_cast<uint8_t>(~*byte);
  }

 private:
  comm::Pending real_;
  Fault fault_;
  std::string what_;
  at::Tensor result_;
  Clock::time_point end_;
  bool is_over_ = false;
};

class FaultyGroup : public comm::ProcessGroup {
 public:
  FaultyGroup(std::shared_ptr<comm::ProcessGroup> real, const std::vector<int64_t>& ranks,
              std::vector<Fault> faults, std::shared_ptr<int64_t> num_calls)
      : ProcessGroup(real->name(), ranks, real->rank()),
        real_(std::move(real)),
        faults_(std::move(faults)),
        num_calls_(std::move(num_calls)) {}

  comm::Pending all_reduce(const at::Tensor& x, comm::Reduce op) override {
    return call(x, "all_reduce", [&] { return real_->all_reduce(x, op); });
  }
  comm::Pending all_gather(const at::Tensor& out, const at::Tensor& x) override {
    return call(out, "all_gather", [&] { return real_->all_gather(out, x); });
  }
  comm::Pending reduce_scatter(const at::Tensor& out, const at::Tensor& x) override {
    return call(out, "reduce_scatter", [&] { return real_->reduce_scatter(out, x); });
  }
  comm::Pending broadcast(const at::Tensor& x, int64_t root) override {
    return call(x, "broadcast", [&] { return real_->broadcast(x, root); });
  }
  comm::Pending all_to_all(const at::Tensor& out, const at::Tensor& in,
                           const std::vector<int64_t>& out_rows,
                           const std::vector<int64_t>& in_rows) override {
    return call(out, "all_to_all", [&] { return real_->all_to_all(out, in, out_rows, in_rows); });
  }
  comm::Pending barrier() override {
    return call({}, "barrier", [&] { return real_->barrier(); });
  }

 private:
  template <class Start>
  comm::Pending call(const at::Tensor& result, const char* operation, Start start) {
    const int64_t number = (*num_calls_)++;
    for (const Fault& fault : faults_) {
      if (fault.call != number) continue;
      std::string what = format("call {} of group {}, {},", number, name(), operation);
      if (fault.kind == Fault::kFail) throw CommError("{} was made to fail", what);
      if (fault.kind == Fault::kDie) fault.die();
      comm::Pending real = fault.kind == Fault::kDrop ? nullptr : start();
      return std::make_unique<FaultyWork>(std::move(real), fault, std::move(what), result);
    }
    return start();
  }

  std::shared_ptr<comm::ProcessGroup> real_;
  std::vector<Fault> faults_;  // this rank's in this group
  std::shared_ptr<int64_t> num_calls_;
};

class FaultyTransport : public comm::Transport {
 public:
  FaultyTransport(std::shared_ptr<comm::Transport> real, std::vector<Fault> faults)
      : real_(std::move(real)), faults_(std::move(faults)) {}

  std::string name() const override { return real_->name(); }
  int64_t rank() const override { return real_->rank(); }
  int64_t world_size() const override { return real_->world_size(); }

  std::shared_ptr<comm::ProcessGroup> make_group(const std::string& name,
                                                 const std::vector<int64_t>& ranks) override {
    std::shared_ptr<comm::ProcessGroup> real = real_->make_group(name, ranks);
    if (real == nullptr) return nullptr;
    std::shared_ptr<int64_t>& num_calls = num_calls_[name];
    if (num_calls == nullptr) num_calls = std::make_shared<int64_t>(0);
    std::vector<Fault> own;
    for (const Fault& fault : faults_) {
      if (fault.group == name && fault.rank == rank()) own.push_back(fault);
    }
    return std::make_shared<FaultyGroup>(std::move(real), ranks, std::move(own), num_calls);
  }

 private:
  std::shared_ptr<comm::Transport> real_;
  std::vector<Fault> faults_;
  std::map<std::string, std::shared_ptr<int64_t>> num_calls_;
};

}  // namespace detail

inline std::shared_ptr<comm::Transport> make_faulty_transport(std::shared_ptr<comm::Transport> real,
                                                              std::vector<Fault> faults) {
  return std::make_shared<detail::FaultyTransport>(std::move(real), std::move(faults));
}

}  // namespace locus::test
