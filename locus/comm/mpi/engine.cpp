#include "locus/comm/mpi/engine.h"

#include <ATen/ops/empty.h>
#include <pthread.h>
#include <sched.h>
#include <sys/prctl.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <exception>

#include "locus/base/error.h"
#include "locus/comm/mpi.h"

namespace locus::comm {
namespace {

using Clock = std::chrono::steady_clock;
using Micros = std::chrono::microseconds;

// A thread that waits first polls without a pause. Then it lets others run in between: for a
// moment, and as long as a slow transfer of these bytes takes, but not for ever, because a thread
// that is always ready takes its share of a core from ranks that compute. At last it sleeps in
// between.
constexpr int kNumSpins = 100;
constexpr int kSpinsAtOnce = 5;  // under one lock
constexpr Micros kYieldAtLeast{300};
constexpr Micros kYieldAtMost{5000};
constexpr int64_t kSlowBytesPerMicro = 250;
constexpr Micros kWaitSleep{100};

// How long the engine's thread sleeps between polls, and between looks, which come in the way of
// ranks that share cores. It looks for so long after the last operation. Small operations, which
// need little help, do not call it while it looks: a call costs as much as such an operation.
constexpr Micros kPollSleep{50};
constexpr Micros kPollSleepAtMost{500};
constexpr Micros kWatchSleep{2000};
constexpr Micros kWatchFor{50000};
constexpr Micros kSleepLong{3'600'000'000};
constexpr int64_t kCallBytes = 8 << 20;

// MPI promises tags below this; what meets under one tag must not be as many calls apart.
constexpr int64_t kNumTags = 32767;

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

Micros yield_for(int64_t num_bytes) {
  return std::min(kYieldAtLeast + Micros(num_bytes / kSlowBytesPerMicro), kYieldAtMost);
}

// Between polls of an operation that nobody stands still for: the longer it has been under way, the
// less a poll more or less matters to it, and every poll takes time from what is computed.
Micros poll_sleep(const Operation& operation) {
  const auto age = std::chrono::duration_cast<Micros>(Clock::now() - operation.begin);
  return std::clamp(age / 16, kPollSleep, kPollSleepAtMost);
}

// What MPI says about the code of an error.
std::string mpi_text(int code) {
  std::array<char, MPI_MAX_ERROR_STRING> text{};
  int length = 0;
  if (MPI_Error_string(code, text.data(), &length) != MPI_SUCCESS) return format("error {}", code);
  return {text.data(), static_cast<size_t>(length)};
}

}  // namespace

Engine::Engine(double timeout_s, int64_t max_count)
    : timeout_s_(timeout_s), max_count_(max_count), world_(std::make_shared<Members>()) {
  LOCUS_CHECK(max_count > 0 && max_count <= kMpiMaxCount, "max_count {}", max_count);
  start_mpi();
  thread_ = std::thread([this] { run(); });
}

void Engine::start_mpi() {
  int was_started = 0;
  MPI_Initialized(&was_started);
  if (was_started != 0) throw CommError("mpi: MPI can be started once in the life of a process");
  int level = MPI_THREAD_SINGLE;
  const int code = MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &level);
  if (code != MPI_SUCCESS) throw CommError("mpi: MPI does not start: {}", mpi_text(code));
  if (level < MPI_THREAD_SERIALIZED) {
    throw ConfigError(
        "comm.backend = \"mpi\": this MPI library serves one thread only; take one with "
        "MPI_THREAD_SERIALIZED");
  }
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  Operation operation;
  operation.name = "start";
  operation.members = world_;
  world_->name = "world";
  check(MPI_Comm_rank(MPI_COMM_WORLD, &world_->rank), "MPI_Comm_rank", operation);
  check(MPI_Comm_size(MPI_COMM_WORLD, &world_->size), "MPI_Comm_size", operation);
  // Of our own, so that our messages meet nobody else's.
  check(MPI_Comm_dup(MPI_COMM_WORLD, &world_->comm), "MPI_Comm_dup", operation);
  check(MPI_Comm_set_errhandler(world_->comm, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler",
        operation);
  comms_.push_back(world_->comm);
}

Engine::~Engine() {
  is_ending_ = true;
  call();
  thread_.join();
  // MPI_Finalize waits for all ranks. One that fails must not: its launcher ends the others when
  // it has gone.
  if (std::uncaught_exceptions() == 0 && failure_.empty()) {
    try {
      end_mpi();
    } catch (const CommError&) {
      // The others do not come: the same.
    }
  }
  // MPI may still write into the tensors of what is left, so they stay.
  for (std::shared_ptr<Operation>& operation : open_) {
    static_cast<void>(std::make_unique<std::shared_ptr<Operation>>(std::move(operation)).release());
  }
}

void Engine::end_mpi() {
  const auto barrier = std::make_shared<Operation>();
  barrier->name = "end";
  barrier->members = world_;
  start(barrier, [&] {
    check(MPI_Ibarrier(world_->comm, &barrier->requests.emplace_back()), "MPI_Ibarrier", *barrier);
  });
  wait(*barrier);
  const std::lock_guard lock(mutex_);
  for (MPI_Comm& comm : comms_) check(MPI_Comm_free(&comm), "MPI_Comm_free", *barrier);
  check(MPI_Finalize(), "MPI_Finalize", *barrier);
}

void Engine::wait(const Operation& operation, bool is_urgent) {
  if (operation.is_done) return;
  // The engine's thread stays away meanwhile.
  struct Waiting {
    Engine& engine;
    explicit Waiting(Engine& e) : engine(e) { ++engine.num_waiting_; }
    ~Waiting() {
      if (--engine.num_waiting_ == 0 && engine.needs_call()) engine.call();
    }
  } const waiting(*this);
  for (int i = 0; is_urgent && i < kNumSpins; i += kSpinsAtOnce) {
    if (poll(operation, kSpinsAtOnce)) return;
  }
  const Clock::time_point begin = Clock::now();
  const Clock::time_point sleep_from = is_urgent ? begin + yield_for(operation.num_bytes) : begin;
  while (!poll(operation, 1)) {
    if (seconds_since(begin) > timeout_s_) {
      const std::lock_guard lock(mutex_);
      fail(format("mpi: {} of group {} did not finish within {} s", operation.name,
                  operation.members->name, timeout_s_));
      throw_if_failed();
    }
    if (Clock::now() < sleep_from) {
      sched_yield();
    } else {
      std::this_thread::sleep_for(is_urgent ? kWaitSleep : poll_sleep(operation));
    }
  }
}

bool Engine::poll(const Operation& operation, int num_times) {
  const std::lock_guard lock(mutex_);
  for (int i = 0; i < num_times && !operation.is_done; ++i) {
    throw_if_failed();
    test_open();
    if (!operation.is_done) throw_if_failed();
  }
  return operation.is_done;
}

void Engine::test_open() {
  for (const std::shared_ptr<Operation>& operation : open_) test(*operation);
  std::erase_if(open_, [this](const std::shared_ptr<Operation>& operation) {
    if (!operation->is_done) return false;
    --num_open_;
    open_bytes_ -= operation->num_bytes;
    return true;
  });
}

void Engine::test(Operation& operation) {
  auto& requests = operation.requests;
  statuses_.resize(std::max(statuses_.size(), requests.size()));
  int are_done = 0;
  int code =
      MPI_Testall(static_cast<int>(requests.size()), requests.data(), &are_done, statuses_.data());
  if (code == MPI_ERR_IN_STATUS) {
    for (size_t i = 0; i < requests.size(); ++i) {
      const int error = statuses_[i].MPI_ERROR;
      if (error != MPI_SUCCESS && error != MPI_ERR_PENDING) code = error;
    }
  }
  if (code != MPI_SUCCESS) {
    fail(format("mpi: {} of group {} failed: {}", operation.name, operation.members->name,
                mpi_text(code)));
  } else if (are_done != 0) {
    operation.is_done = true;
  }
}

void Engine::check(int code, const char* call, const Operation& operation) {
  if (code == MPI_SUCCESS) return;
  fail(format("mpi: {} of group {} failed: {}: {}", operation.name, operation.members->name, call,
              mpi_text(code)));
  throw_if_failed();
}

void Engine::fail(const std::string& text) {
  if (failure_.empty()) failure_ = text;
}

void Engine::throw_if_failed() const {
  if (!failure_.empty()) throw CommError("{}", failure_);
}

std::shared_ptr<const Members> Engine::make_members(const std::string& name,
                                                    const std::vector<int64_t>& ranks,
                                                    int64_t number) {
  meet(name, ranks, number);
  const auto members = std::make_shared<Members>();
  members->name = name;
  Operation operation;
  operation.name = "make_group";
  operation.members = members;
  const std::lock_guard lock(mutex_);
  throw_if_failed();
  members->comm = make_comm(ranks, number, operation);
  check(MPI_Comm_rank(members->comm, &members->rank), "MPI_Comm_rank", operation);
  check(MPI_Comm_size(members->comm, &members->size), "MPI_Comm_size", operation);
  return members;
}

// MPI_Comm_create_group has no deadline. So the members meet before, and compare what they want.
void Engine::meet(const std::string& name, const std::vector<int64_t>& ranks, int64_t number) {
  std::string text = name;
  for (const int64_t rank : ranks) text += format(" {}", rank);
  const auto num_ranks = static_cast<int64_t>(ranks.size());
  const at::Tensor seen = at::empty({num_ranks + 1}, at::kLong);
  auto* hashes = seen.mutable_data_ptr<int64_t>();
  hashes[num_ranks] = static_cast<int64_t>(std::hash<std::string>{}(text));
  const auto operation = std::make_shared<Operation>();
  operation->name = "make_group";
  const auto members = std::make_shared<Members>();
  members->name = name;
  operation->members = members;
  operation->tensors = {seen};
  const int tag = static_cast<int>(number % kNumTags);
  start(operation, [&] {
    for (int64_t i = 0; i < num_ranks; ++i) {
      const int rank = static_cast<int>(ranks[static_cast<size_t>(i)]);
      check(MPI_Irecv(hashes + i, 1, MPI_INT64_T, rank, tag, world_->comm,
                      &operation->requests.emplace_back()),
            "MPI_Irecv", *operation);
      check(MPI_Isend(hashes + num_ranks, 1, MPI_INT64_T, rank, tag, world_->comm,
                      &operation->requests.emplace_back()),
            "MPI_Isend", *operation);
    }
  });
  wait(*operation);
  for (int64_t i = 0; i < num_ranks; ++i) {
    if (hashes[i] != hashes[num_ranks]) {
      throw CommError("mpi: ranks {} and {} make different groups at call {}: here it is {}",
                      world_->rank, ranks[static_cast<size_t>(i)], number, text);
    }
  }
}

MPI_Comm Engine::make_comm(const std::vector<int64_t>& ranks, int64_t number,
                           const Operation& operation) {
  const std::vector<int> members(ranks.begin(), ranks.end());
  MPI_Group world_group = MPI_GROUP_NULL;
  MPI_Group group = MPI_GROUP_NULL;
  MPI_Comm comm = MPI_COMM_NULL;
  check(MPI_Comm_group(world_->comm, &world_group), "MPI_Comm_group", operation);
  check(MPI_Group_incl(world_group, static_cast<int>(members.size()), members.data(), &group),
        "MPI_Group_incl", operation);
  check(MPI_Comm_create_group(world_->comm, group, static_cast<int>(number % kNumTags), &comm),
        "MPI_Comm_create_group", operation);
  comms_.push_back(comm);
  check(MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler", operation);
  MPI_Group_free(&group);
  MPI_Group_free(&world_group);
  return comm;
}

void Engine::run() {
  // Signals are the program's business, and 50 us are meant as such (Linux rounds sleeps up by 50).
  sigset_t all;
  sigfillset(&all);
  pthread_sigmask(SIG_BLOCK, &all, nullptr);
  prctl(PR_SET_TIMERSLACK, 1000UL);
  pthread_setname_np(pthread_self(), "locus-mpi");
  Clock::time_point last_open = Clock::now();
  while (!is_ending_) {
    pace_ = Pace::kAsleep;  // whoever starts an operation from here on calls
    const bool is_open = num_open_ > 0;
    if (is_open) last_open = Clock::now();
    if (is_open && num_waiting_ == 0) {
      pace_ = Pace::kPolling;
      Micros oldest = kPollSleep;
      {
        const std::lock_guard lock(mutex_);
        if (failure_.empty()) test_open();
        if (!open_.empty()) oldest = poll_sleep(*open_.front());
      }
      sleep(oldest);
    } else if (is_open || Clock::now() - last_open < kWatchFor) {
      pace_ = Pace::kWatching;
      sleep(kWatchSleep);
    } else {
      sleep(kSleepLong);
    }
  }
}

void Engine::sleep(Micros time) {
  std::unique_lock lock(sleep_mutex_);
  call_.wait_for(lock, time, [this] { return is_called_; });
  is_called_ = false;
}

bool Engine::needs_call() const {
  const Pace pace = pace_;
  return num_open_ > 0 &&
         (pace == Pace::kAsleep || (pace == Pace::kWatching && open_bytes_ >= kCallBytes));
}

void Engine::call() {
  {
    const std::lock_guard lock(sleep_mutex_);
    is_called_ = true;
  }
  call_.notify_one();
}

}  // namespace locus::comm
