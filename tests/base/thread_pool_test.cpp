#include "locus/base/thread_pool.h"

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <fstream>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "locus/base/error.h"

namespace locus {
namespace {

TEST(ThreadPool, GivesEachTasksResultToItsOwner) {
  ThreadPool pool(3);
  EXPECT_EQ(pool.num_threads(), 3);
  std::vector<std::future<int>> results;
  for (int i = 0; i < 1000; ++i) results.push_back(pool.submit([i] { return i * i; }));
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(results[static_cast<size_t>(i)].get(), i * i);
}

TEST(ThreadPool, HandsAnExceptionToTheOwnerAndGoesOn) {
  ThreadPool pool(1);
  auto bad = pool.submit([]() -> int { throw DataError("broken"); });
  auto good = pool.submit([] { return std::string("fine"); });
  EXPECT_THROW(bad.get(), DataError);
  EXPECT_EQ(good.get(), "fine");
}

TEST(ThreadPool, DropsWaitingTasksWhenDestroyed) {
  auto pool = std::make_unique<ThreadPool>(1);
  std::promise<void> started;
  std::promise<void> gate;
  std::atomic<int> num_done{0};
  const auto running = pool->submit([&] {
    started.set_value();
    gate.get_future().wait();
    ++num_done;
  });
  std::future<void> waiting = pool->submit([&] { ++num_done; });
  started.get_future().wait();
  std::thread destroyer([&pool] { pool.reset(); });
  waiting.wait();  // dropped while the first task still runs
  gate.set_value();
  destroyer.join();
  EXPECT_EQ(num_done, 1);
  EXPECT_THROW(waiting.get(), std::future_error);
}

TEST(ThreadPool, TakesAllCoresWhenAskedForNoNumber) {
  EXPECT_EQ(ThreadPool(0).num_threads(), ThreadPool::num_cores());
  EXPECT_GE(ThreadPool::num_cores(), 1);
}

TEST(ThreadPool, SaysWhichCoresItMayRunOn) {
  std::thread([] {
    cpu_set_t cores;
    CPU_ZERO(&cores);
    CPU_SET(0, &cores);
    if (::sched_setaffinity(0, sizeof(cores), &cores) != 0) return;  // a set without core 0
    EXPECT_EQ(ThreadPool::num_cores(), 1);
    EXPECT_EQ(ThreadPool::cores_text(), "0");
  }).join();
}

// Address space for some more stacks of threads, but not for thousands.
void limit_address_space() {
  int64_t num_pages = 0;
  std::ifstream("/proc/self/statm") >> num_pages;
  const auto bytes = static_cast<rlim_t>(num_pages * ::sysconf(_SC_PAGESIZE));
  const rlimit limit{bytes + (rlim_t{256} << 20), RLIM_INFINITY};
  ::setrlimit(RLIMIT_AS, &limit);
}

TEST(ThreadPool, ThrowsWhenTheSystemGivesNoMoreThreads) {
  EXPECT_EXIT(
      {
        limit_address_space();
        try {
          const ThreadPool pool(4096);
        } catch (const std::system_error&) {
          // Those that had begun were joined: there is room again.
          std::_Exit(ThreadPool(1).submit([] { return 7; }).get());
        }
        std::_Exit(1);
      },
      testing::ExitedWithCode(7), "");
}

}  // namespace
}  // namespace locus
