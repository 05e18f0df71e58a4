// Ranks that do not do the same, for faults_test.py: connects as `locus train` does, and then the
// rank 1 is the odd one.
//
//   fault_probe size|operation|absent|type|error TIMEOUT_S
#include <ATen/ATen.h>

#include <chrono>
#include <iostream>
#include <thread>

#include "locus/app/ranks.h"
#include "locus/base/error.h"
#include "locus/comm/activity.h"
#include "locus/comm/collectives.h"
#include "locus/comm/watched.h"

namespace locus {
namespace {

void sum(const comm::ParallelContext& ranks, int64_t count) {
  ranks.world->all_reduce(at::ones({count}), comm::Reduce::kSum)->wait();
}

void gather(const comm::ParallelContext& ranks, int64_t count, at::ScalarType type = at::kFloat) {
  const at::Tensor all = at::empty({count * ranks.world_size}, type);
  ranks.world->all_gather(all, at::ones({count}, type))->wait();
}

void check(const comm::ParallelContext& ranks) {
  const at::Tensor own = at::full({1}, comm::call_balance(ranks), at::kDouble);
  comm::check_call_balance(ranks, comm::sum_over(ranks.world.get(), own).item<double>());
}

void run(const comm::ParallelContext& ranks, const std::string& mode) {
  const bool is_odd = ranks.rank == 1;
  comm::note_step(ranks.activity, 7);
  comm::note_phase(ranks.activity, "reduce");
  sum(ranks, 5);
  if (mode == "size") {
    gather(ranks, is_odd ? 25 : 12);
  } else if (mode == "operation") {
    if (is_odd) {
      sum(ranks, 12);
    } else {
      gather(ranks, 12);
    }
  } else if (mode == "absent") {
    comm::note_phase(ranks.activity, "optimizer step");
    if (is_odd) std::this_thread::sleep_for(std::chrono::hours(1));
    sum(ranks, 12);
  } else if (mode == "type") {  // does not hang
    gather(ranks, 6, is_odd ? at::kInt : at::kFloat);
  } else if (mode == "error") {
    if (is_odd) throw DataError("a file of rank 1 is missing");
    sum(ranks, 12);
  }
  check(ranks);
}

int main_of(const std::string& mode, double timeout_s) {
  try {
    comm::CommConfig config;
    config.timeout_s = timeout_s;
    run(app::connect_ranks(app::find_launch(), {}, config), mode);
    return 0;
  } catch (const Error& error) {
    if (!error.is_told_elsewhere()) print_error("error", error.what());
    return error.exit_code();
  }
}

}  // namespace
}  // namespace locus

int main(int argc, char** argv) {
  if (argc != 3) return 2;
  return locus::main_of(argv[1], std::stod(argv[2]));
}
