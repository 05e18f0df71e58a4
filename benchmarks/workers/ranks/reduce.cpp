// Sums of gradients over all ranks with nothing beside them: buckets like those of
// locus/train/gradient_reducer.h set off at once and are waited for in order. Every rank is told to
// run by its own standard input.
#include <ATen/ATen.h>

#include <algorithm>

#include "benchmarks/workers/serve.h"
#include "locus/app/ranks.h"
#include "locus/base/error.h"

namespace locus::benchmarks {
namespace {

struct ReduceOptions {
  std::string backend = "mpi";
  int64_t bytes = 100 << 20;
  int64_t bucket_bytes = 25 << 20;

  template <class V>
  void visit_fields(V& v) {
    v("backend", backend, "gloo | mpi");
    v("bytes", bytes, "of all gradients, in float32");
    v("bucket_bytes", bucket_bytes, "at most, of a bucket");
  }
};

class Reduction {
 public:
  explicit Reduction(const ReduceOptions& options) {
    const cluster::Launch launch = app::find_launch();
    if (launch.world_size == 1) throw ConfigError("reduce needs several ranks");
    comm::CommConfig config;
    config.backend = options.backend;
    context_ = app::connect_ranks(launch, {}, config, {});
    for (int64_t left = options.bytes; left > 0; left -= options.bucket_bytes) {
      const int64_t bytes = std::min(left, options.bucket_bytes);
      buckets_.push_back(at::empty({bytes / static_cast<int64_t>(sizeof(float))}, at::kFloat));
    }
  }

  Report run() {
    comm::ProcessGroup& world = *context_.world;
    for (const at::Tensor& bucket : buckets_) bucket.fill_(world.rank());
    world.barrier()->wait();
    const Stopwatch watch;
    std::vector<comm::Pending> works;
    for (const at::Tensor& bucket : buckets_) {
      works.push_back(world.all_reduce(bucket, comm::Reduce::kSum));
    }
    for (const comm::Pending& work : works) work->wait();
    const double seconds = watch.seconds();
    const int64_t sum = world.size() * (world.size() - 1) / 2;
    for (const at::Tensor& bucket : buckets_) {
      LOCUS_CHECK(bucket.eq(sum).all().item<bool>(), "wrong sums have come");
    }
    return {{"seconds", seconds}};
  }

 private:
  comm::ParallelContext context_;
  std::vector<at::Tensor> buckets_;
};

}  // namespace

Worker make_reduce(const std::vector<std::string>& settings) {
  const auto reduction = std::make_shared<Reduction>(parse_settings<ReduceOptions>(settings));
  return {{}, [reduction] { return reduction->run(); }};
}

}  // namespace locus::benchmarks
