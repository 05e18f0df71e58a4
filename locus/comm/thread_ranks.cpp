#include "locus/comm/thread_ranks.h"

#include <exception>
#include <memory>
#include <thread>
#include <vector>

#include "locus/comm/gloo.h"
#include "locus/comm/store.h"
#include "locus/comm/together.h"

namespace locus::comm {
namespace {

// Ends because another rank did.
bool is_consequence(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const CommError&) {
    return true;
  } catch (const PeerError&) {
    return true;
  } catch (...) {
    return false;
  }
}

}  // namespace

void run_thread_ranks(int64_t world_size, const ParallelConfig& config,
                      const std::function<void(const ParallelContext&)>& rank, double timeout_s) {
  if (world_size == 1) return rank(alone());
  const std::shared_ptr<Store> store = make_memory_store();
  std::vector<std::exception_ptr> errors(static_cast<size_t>(world_size));
  std::vector<std::thread> threads;
  for (int64_t r = 0; r < world_size; ++r) {
    threads.emplace_back([&, r] {
      try {
        std::shared_ptr<Transport> transport = make_gloo_transport({.rank = r,
                                                                    .world_size = world_size,
                                                                    .timeout_s = timeout_s,
                                                                    .address = "127.0.0.1",
                                                                    .start = 0},
                                                                   store);
        rank(make_parallel_context(config, transport, "thread ranks"));
      } catch (...) {
        errors[static_cast<size_t>(r)] = std::current_exception();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::exception_ptr any;
  for (const std::exception_ptr& error : errors) {
    if (error && !is_consequence(error)) std::rethrow_exception(error);
    if (error) any = error;
  }
  if (any) std::rethrow_exception(any);
}

}  // namespace locus::comm
