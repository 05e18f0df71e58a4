#include "locus/comm/thread_ranks.h"

#include <exception>
#include <memory>
#include <thread>
#include <vector>

#include "locus/comm/emulated.h"
#include "locus/comm/gloo.h"
#include "locus/comm/store.h"
#include "locus/comm/together.h"
#include "locus/comm/watchdog.h"
#include "locus/comm/watched.h"

namespace locus::comm {
namespace {

// How much an error says about what has happened: 0, that another rank has ended; 1, that ranks
// have lost one another; 2, all else.
int weight(const std::exception_ptr& error) {
  try {
    std::rethrow_exception(error);
  } catch (const CommError& lost) {
    return lost.is_told_elsewhere() ? 0 : 1;
  } catch (const PeerError&) {
    return 0;
  } catch (...) {
    return 2;
  }
}

}  // namespace

void run_thread_ranks(int64_t world_size, const ParallelConfig& config,
                      const std::function<void(const ParallelContext&)>& rank,
                      const ThreadRanksOptions& options) {
  if (world_size == 1) return rank(alone());
  const std::shared_ptr<Store> store = make_memory_store();
  std::vector<std::exception_ptr> errors(static_cast<size_t>(world_size));
  std::vector<std::thread> threads;
  for (int64_t r = 0; r < world_size; ++r) {
    threads.emplace_back([&, r] {
      try {
        std::shared_ptr<Transport> transport = make_gloo_transport({.rank = r,
                                                                    .world_size = world_size,
                                                                    .timeout_s = options.timeout_s,
                                                                    .address = "127.0.0.1",
                                                                    .start = 0},
                                                                   store);
        if (options.wrap) transport = options.wrap(std::move(transport));
        transport = make_emulated_transport(std::move(transport), options.emulate);
        const std::string host = options.emulate.nodes == 0
                                     ? "thread ranks"
                                     : emulated_host(options.emulate, r, world_size);
        auto watchdog = std::make_shared<Watchdog>(
            WatchdogSettings{
                .rank = r, .world_size = world_size, .host = host, .timeout_s = options.timeout_s},
            std::vector{store});
        transport = make_watched_transport(std::move(transport), watchdog);
        rank(make_parallel_context(config, std::move(transport), host, std::move(watchdog)));
      } catch (...) {
        errors[static_cast<size_t>(r)] = std::current_exception();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  std::exception_ptr first;
  for (const std::exception_ptr& error : errors) {
    if (error && (!first || weight(error) > weight(first))) first = error;
  }
  if (first) std::rethrow_exception(first);
}

}  // namespace locus::comm
