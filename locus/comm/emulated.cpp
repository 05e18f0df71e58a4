#include "locus/comm/emulated.h"

#include <c10/util/accumulate.h>
#include <sys/prctl.h>

#include <thread>
#include <utility>

#include "locus/base/error.h"
#include "locus/comm/emulated_links.h"

namespace locus::comm {
namespace {

using Clock = std::chrono::steady_clock;

// Linux may let a thread sleep 50 us longer than asked: as long as the latency of a network.
class ExactSleep {
 public:
  ExactSleep() : slack_ns_(prctl(PR_GET_TIMERSLACK)) { prctl(PR_SET_TIMERSLACK, 1000UL); }
  ~ExactSleep() { prctl(PR_SET_TIMERSLACK, static_cast<unsigned long>(slack_ns_)); }
  ExactSleep(const ExactSleep&) = delete;
  ExactSleep& operator=(const ExactSleep&) = delete;

  void until(EmulatedTime time) const { std::this_thread::sleep_until(time); }

 private:
  int slack_ns_;
};

class EmulatedWork : public Work {
 public:
  EmulatedWork(Pending real, EmulatedTime end) : real_(std::move(real)), end_(end) {}
  ~EmulatedWork() override {
    try {
      wait();
    } catch (const CommError&) {
      // Whoever cares has called wait().
    }
  }

  bool is_done() override { return real_->is_done() && Clock::now() >= end_; }

  void wait() override {
    const EmulatedTime end = take_end();
    real_->wait();
    if (Clock::now() < end) ExactSleep().until(end);
  }
  void wait_patiently() override {
    const EmulatedTime end = take_end();
    real_->wait_patiently();
    if (Clock::now() < end) ExactSleep().until(end);
  }

 private:
  // After an error nobody waits again.
  EmulatedTime take_end() { return std::exchange(end_, EmulatedTime()); }

  Pending real_;
  EmulatedTime end_;
};

class EmulatedGroup : public ProcessGroup {
 public:
  EmulatedGroup(std::shared_ptr<ProcessGroup> real, const std::vector<int64_t>& ranks,
                TrafficModel model, std::shared_ptr<EmulatedLinks> links)
      : ProcessGroup(real->name(), ranks, real->rank()),
        real_(std::move(real)),
        model_(std::move(model)),
        links_(std::move(links)) {}

  Pending all_reduce(const at::Tensor& x, Reduce op) override {
    const EmulatedTime now = Clock::now();
    Pending real = real_->all_reduce(x, op);
    return slowed(std::move(real), now, model_.all_reduce(num_bytes(x)));
  }

  Pending all_gather(const at::Tensor& out, const at::Tensor& x) override {
    const EmulatedTime now = Clock::now();
    Pending real = real_->all_gather(out, x);
    return slowed(std::move(real), now, model_.all_gather(num_bytes(x)));
  }

  Pending reduce_scatter(const at::Tensor& out, const at::Tensor& x) override {
    const EmulatedTime now = Clock::now();
    Pending real = real_->reduce_scatter(out, x);
    return slowed(std::move(real), now, model_.reduce_scatter(num_bytes(out)));
  }

  Pending broadcast(const at::Tensor& x, int64_t root) override {
    const EmulatedTime now = Clock::now();
    Pending real = real_->broadcast(x, root);
    return slowed(std::move(real), now, model_.broadcast(num_bytes(x), root));
  }

  Pending all_to_all(const at::Tensor& out, const at::Tensor& in,
                     const std::vector<int64_t>& out_rows,
                     const std::vector<int64_t>& in_rows) override {
    const EmulatedTime now = Clock::now();
    Pending real = real_->all_to_all(out, in, out_rows, in_rows);
    const int64_t row_bytes = in.element_size() * c10::multiply_integers(in.sizes().slice(1));
    return slowed(std::move(real), now, model_.all_to_all(out_rows, in_rows, row_bytes));
  }

  Pending barrier() override {
    const EmulatedTime now = Clock::now();
    return slowed(real_->barrier(), now, model_.barrier());
  }

 private:
  static int64_t num_bytes(const at::Tensor& x) { return static_cast<int64_t>(x.nbytes()); }
  Pending slowed(Pending real, EmulatedTime now, const GroupTraffic& traffic) {
    return std::make_unique<EmulatedWork>(std::move(real), links_->book(now, traffic));
  }

  std::shared_ptr<ProcessGroup> real_;
  TrafficModel model_;
  std::shared_ptr<EmulatedLinks> links_;
};

int64_t node_of(const EmulateConfig& config, int64_t rank, int64_t world_size) {
  if (config.nodes < 1 || world_size % config.nodes != 0) {
    throw ConfigError("comm.emulate.nodes = {} does not divide the {} ranks", config.nodes,
                      world_size);
  }
  return rank / (world_size / config.nodes);
}

class EmulatedTransport : public Transport {
 public:
  EmulatedTransport(std::shared_ptr<Transport> real, const EmulateConfig& config)
      : real_(std::move(real)), config_(config), links_(std::make_shared<EmulatedLinks>(config)) {
    node_of(config_, rank(), world_size());  // checks
  }

  std::string name() const override { return real_->name(); }
  int64_t rank() const override { return real_->rank(); }
  int64_t world_size() const override { return real_->world_size(); }

  std::shared_ptr<ProcessGroup> make_group(const std::string& name,
                                           const std::vector<int64_t>& ranks) override {
    std::shared_ptr<ProcessGroup> real = real_->make_group(name, ranks);
    if (real == nullptr) return nullptr;
    std::vector<int64_t> nodes;
    for (const int64_t one : ranks) nodes.push_back(node_of(config_, one, world_size()));
    TrafficModel model(std::move(nodes), real->rank());
    return std::make_shared<EmulatedGroup>(std::move(real), ranks, std::move(model), links_);
  }

 private:
  std::shared_ptr<Transport> real_;
  EmulateConfig config_;
  std::shared_ptr<EmulatedLinks> links_;
};

}  // namespace

std::string emulated_host(const EmulateConfig& config, int64_t rank, int64_t world_size) {
  return format("node{}", node_of(config, rank, world_size));
}

std::shared_ptr<Transport> make_emulated_transport(std::shared_ptr<Transport> real,
                                                   const EmulateConfig& config) {
  if (config.nodes == 0) return real;
  return std::make_shared<EmulatedTransport>(std::move(real), config);
}

}  // namespace locus::comm
