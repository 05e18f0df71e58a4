#include "locus/comm/mpi/module.h"

#include <algorithm>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "locus/base/error.h"
#include "locus/comm/mpi/engine.h"
#include "locus/comm/mpi/group.h"

namespace locus::comm {
namespace {

class MpiTransport : public Transport {
 public:
  MpiTransport(double timeout_s, int64_t max_count)
      : engine_(std::make_shared<Engine>(timeout_s, max_count)) {}

  std::string name() const override { return "mpi"; }
  int64_t rank() const override { return engine_->rank(); }
  int64_t world_size() const override { return engine_->world_size(); }

  std::shared_ptr<ProcessGroup> make_group(const std::string& name,
                                           const std::vector<int64_t>& ranks) override {
    const int64_t number = num_calls_++;
    for (const int64_t rank : ranks) {
      LOCUS_CHECK(rank >= 0 && rank < world_size(), "group {}: rank {} of {}", name, rank,
                  world_size());
    }
    LOCUS_CHECK(std::set<int64_t>(ranks.begin(), ranks.end()).size() == ranks.size(),
                "group {} has a rank twice", name);
    if (std::find(ranks.begin(), ranks.end(), rank()) == ranks.end()) return nullptr;
    return make_mpi_group(engine_, engine_->make_members(name, ranks, number), ranks);
  }

 private:
  std::shared_ptr<Engine> engine_;
  int64_t num_calls_ = 0;
};

}  // namespace
}  // namespace locus::comm

extern "C" [[gnu::visibility("default")]] locus::comm::Transport* locus_make_mpi_transport(
    double timeout_s, int64_t max_count) {
  return std::make_unique<locus::comm::MpiTransport>(timeout_s, max_count).release();
}
