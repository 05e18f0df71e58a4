#include "locus/comm/watched.h"

#include <c10/util/accumulate.h>

#include <algorithm>
#include <functional>

#include "locus/base/error.h"

namespace locus::comm {
namespace {

constexpr uint64_t kBalanceMask = (uint64_t{1} << 30) - 1;

// Notes the calls of one group.
class GroupWatch {
 public:
  GroupWatch(const std::shared_ptr<Watchdog>& watchdog, const std::string& name,
             const std::vector<int64_t>& ranks, int64_t index)
      : watchdog_(watchdog),
        activity_(watchdog->activity()),
        place_(activity_->add_group(name, ranks, index)),
        index_(index) {}
  // The calls of make_group, which the watchdog's activity knows already.
  explicit GroupWatch(const std::shared_ptr<Watchdog>& watchdog)
      : watchdog_(watchdog), activity_(watchdog->activity()) {}

  int64_t enter(const Signature& signature) { return activity_->enter(place_, signature); }
  void wait_begins(int64_t number) { activity_->wait_begins(place_, number); }
  void is_done(int64_t number) { activity_->is_done(place_, number); }
  uint64_t hash() const { return activity_->hash(place_); }

  template <class Action>
  auto guard(int64_t number, const Action& action) {
    try {
      return action();
    } catch (const ToldCommError&) {
      throw;
    } catch (const CommError& error) {
      const std::shared_ptr<Watchdog> watchdog = watchdog_.lock();
      if (watchdog == nullptr) throw;
      watchdog->fail({watchdog->rank(), index_, number, error.what()});
    }
  }

 private:
  std::weak_ptr<Watchdog> watchdog_;
  std::shared_ptr<Activity> activity_;
  size_t place_ = 0;
  int64_t index_ = 0;
};

class WatchedWork : public Work {
 public:
  WatchedWork(Pending real, std::shared_ptr<GroupWatch> watch, int64_t number)
      : real_(std::move(real)), watch_(std::move(watch)), number_(number) {}
  ~WatchedWork() override {
    if (real_ == nullptr) return;
    real_.reset();
    watch_->is_done(number_);
  }

  bool is_done() override { return real_ == nullptr || real_->is_done(); }

  void wait() override {
    finish([this] { real_->wait(); });
  }
  void wait_patiently() override {
    finish([this] { real_->wait_patiently(); });
  }

 private:
  template <class Wait>
  void finish(Wait wait) {
    if (real_ == nullptr) return;
    if (!real_->is_done()) watch_->wait_begins(number_);
    watch_->guard(number_, wait);
    real_.reset();
    watch_->is_done(number_);
  }

  Pending real_;
  std::shared_ptr<GroupWatch> watch_;
  int64_t number_;
};

class WatchedGroup : public ProcessGroup {
 public:
  WatchedGroup(std::shared_ptr<ProcessGroup> real, const std::vector<int64_t>& ranks,
               std::shared_ptr<GroupWatch> watch)
      : ProcessGroup(real->name(), ranks, real->rank()),
        real_(std::move(real)),
        watch_(std::move(watch)) {}

  Pending all_reduce(const at::Tensor& x, Reduce op) override {
    return watched({Operation::kAllReduce, x.scalar_type(), x.numel(), static_cast<int64_t>(op)},
                   [&] { return real_->all_reduce(x, op); });
  }
  Pending all_gather(const at::Tensor& out, const at::Tensor& x) override {
    return watched({Operation::kAllGather, x.scalar_type(), x.numel()},
                   [&] { return real_->all_gather(out, x); });
  }
  Pending reduce_scatter(const at::Tensor& out, const at::Tensor& x) override {
    return watched({Operation::kReduceScatter, x.scalar_type(), x.numel()},
                   [&] { return real_->reduce_scatter(out, x); });
  }
  Pending broadcast(const at::Tensor& x, int64_t root) override {
    return watched({Operation::kBroadcast, x.scalar_type(), x.numel(), root},
                   [&] { return real_->broadcast(x, root); });
  }
  Pending all_to_all(const at::Tensor& out, const at::Tensor& in,
                     const std::vector<int64_t>& out_rows,
                     const std::vector<int64_t>& in_rows) override {
    const int64_t row_size = c10::multiply_integers(in.sizes().slice(1));
    return watched({Operation::kAllToAll, in.scalar_type(), row_size},
                   [&] { return real_->all_to_all(out, in, out_rows, in_rows); });
  }
  Pending barrier() override {
    return watched({Operation::kBarrier}, [&] { return real_->barrier(); });
  }

  // 0 summed over the group where all members have made the same calls.
  double balance() const {
    const auto hash = static_cast<double>(watch_->hash() & kBalanceMask);
    return rank() == 0 ? hash * static_cast<double>(size() - 1) : -hash;
  }

 private:
  template <class Start>
  Pending watched(const Signature& signature, const Start& start) {
    const int64_t number = watch_->enter(signature);
    return std::make_unique<WatchedWork>(watch_->guard(number, start), watch_, number);
  }

  std::shared_ptr<ProcessGroup> real_;
  std::shared_ptr<GroupWatch> watch_;
};

class WatchedTransport : public Transport {
 public:
  WatchedTransport(std::shared_ptr<Transport> real, const std::shared_ptr<Watchdog>& watchdog)
      : real_(std::move(real)), watchdog_(watchdog), making_(watchdog) {}

  std::string name() const override { return real_->name(); }
  int64_t rank() const override { return real_->rank(); }
  int64_t world_size() const override { return real_->world_size(); }

  std::shared_ptr<ProcessGroup> make_group(const std::string& name,
                                           const std::vector<int64_t>& ranks) override {
    const std::shared_ptr<Watchdog> watchdog = watchdog_.lock();
    if (watchdog == nullptr) return real_->make_group(name, ranks);
    const auto hash = static_cast<int64_t>(std::hash<std::string>{}(name));
    const int64_t number = making_.enter({Operation::kMakeGroup, at::kByte, 0, hash});
    std::shared_ptr<GroupWatch> watch;
    if (std::find(ranks.begin(), ranks.end(), rank()) != ranks.end()) {
      watch = std::make_shared<GroupWatch>(watchdog, name, ranks, number);
    }
    making_.wait_begins(number);
    std::shared_ptr<ProcessGroup> group =
        making_.guard(number, [&] { return real_->make_group(name, ranks); });
    making_.is_done(number);
    if (group == nullptr) return nullptr;
    return std::make_shared<WatchedGroup>(std::move(group), ranks, std::move(watch));
  }

 private:
  std::shared_ptr<Transport> real_;
  std::weak_ptr<Watchdog> watchdog_;
  GroupWatch making_;
};

}  // namespace

std::shared_ptr<Transport> make_watched_transport(std::shared_ptr<Transport> real,
                                                  const std::shared_ptr<Watchdog>& watchdog) {
  return std::make_shared<WatchedTransport>(std::move(real), watchdog);
}

double call_balance(const ParallelContext& context) {
  double sum = 0.0;
  for (const auto& group : {context.world, context.ep, context.edp}) {
    const auto* watched = dynamic_cast<const WatchedGroup*>(group.get());
    if (watched != nullptr) sum += watched->balance();
  }
  return sum;
}

void check_call_balance(const ParallelContext& context, double sum) {
  if (sum == 0.0) return;
  LOCUS_CHECK(context.watchdog != nullptr, "calls that nobody has watched differ by {}", sum);
  context.watchdog->fail({context.rank, -1, 0, ""});
}

}  // namespace locus::comm
