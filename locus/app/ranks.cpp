#include "locus/app/ranks.h"

#include <cxxabi.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <csignal>
#include <cstdlib>
#include <exception>
#include <iterator>
#include <mutex>
#include <numeric>
#include <sstream>
#include <thread>
#include <typeinfo>

#include "locus/base/error.h"
#include "locus/base/log.h"
#include "locus/base/thread_pool.h"
#include "locus/cluster/address.h"
#include "locus/comm/c10d_store.h"
#include "locus/comm/collectives.h"
#include "locus/comm/emulated.h"
#include "locus/comm/gloo.h"
#include "locus/comm/mpi.h"
#include "locus/comm/nccl.h"
#include "locus/comm/store.h"
#include "locus/comm/together.h"
#include "locus/comm/watchdog.h"
#include "locus/comm/watched.h"

namespace locus::app {
namespace {

std::string choose_backend(const cluster::Launch& launch, const std::string& wanted,
                           const std::string& device) {
  std::string why;
  const bool on_gpus = device.starts_with("cuda");
  if (wanted == "nccl" || (wanted == "auto" && on_gpus)) {
    if (!comm::nccl_is_available(&why)) throw ConfigError("comm.backend = \"nccl\": {}", why);
    return "nccl";
  }
  if (wanted == "auto") {
    return launch.launcher == "mpirun" && comm::mpi_is_available(&why) ? "mpi" : "gloo";
  }
  if (wanted == "mpi" && !comm::mpi_is_available(&why)) {
    throw ConfigError("comm.backend = \"mpi\": {}", why);
  }
  if (wanted != "gloo" && wanted != "mpi") {
    throw ConfigError("comm.backend = \"{}\" is not known; known: auto, gloo, mpi, nccl", wanted);
  }
  return wanted;
}

// All ranks find the same wrong; one of them says it.
std::string agreed_backend(const cluster::Launch& launch, const std::string& wanted,
                           const std::string& device) {
  try {
    return choose_backend(launch, wanted, device);
  } catch (const ConfigError& error) {
    if (launch.rank == 0) throw;
    throw comm::PeerError(0, error.exit_code());
  }
}

bool has_one_node(const cluster::Launch& launch) {
  return launch.local_world_size == launch.world_size;
}

// How the ranks of a job are connected.
struct Connection {
  std::shared_ptr<comm::Transport> transport;
  std::shared_ptr<comm::Store> store;  // for the watchdog
  std::shared_ptr<comm::Watchdog> watchdog;
};

// On a port that the system chooses.
std::shared_ptr<comm::Store> serve_store(double timeout_s) {
  return comm::make_tcp_store("127.0.0.1", 0, true, timeout_s);
}

// Where the others reach it: the port, and the addresses of this machine.
std::string place_of(const comm::Store& store, const cluster::Launch& launch) {
  std::string text = std::to_string(store.port());
  if (has_one_node(launch)) return text + " 127.0.0.1";
  for (const std::string& address : cluster::own_addresses()) text += " " + address;
  return text;
}

std::shared_ptr<comm::Store> join_store(const std::string& place, double timeout_s) {
  std::istringstream words(place);
  int64_t port = 0;
  words >> port;
  const std::vector<std::string> addresses{std::istream_iterator<std::string>(words), {}};
  return comm::make_tcp_store(cluster::first_to_answer(addresses, port, timeout_s), port, false,
                              timeout_s);
}

// Gloo, and NCCL, which lets the ranks meet in the same way.
Connection connect_by_c10d(const cluster::Launch& launch, double timeout_s, bool by_nccl) {
  if (launch.master_port == 0) {
    throw ConfigError(
        "{} does not say where the ranks meet; export MASTER_ADDR and MASTER_PORT to all of them",
        launch.launcher);
  }
  comm::GlooSettings settings{.rank = launch.rank,
                              .world_size = launch.world_size,
                              .timeout_s = timeout_s,
                              .address = "",
                              .start = launch.restarts};
  if (has_one_node(launch)) {
    settings.address = "127.0.0.1";
  } else if (std::getenv("GLOO_SOCKET_IFNAME") == nullptr) {
    settings.address = cluster::address_towards(launch.master_addr, launch.master_port);
  }
  const bool serves = launch.rank == 0 && !launch.agent_has_store;
  const auto store =
      comm::make_tcp_store(launch.master_addr, launch.master_port, serves, timeout_s);
  std::shared_ptr<comm::Transport> transport = by_nccl ? comm::make_nccl_transport(settings, store)
                                                       : comm::make_gloo_transport(settings, store);
  return {std::move(transport), store->another_connection(), nullptr};
}

// MPI has no store: rank 0 serves one, and says over MPI where.
Connection connect_by_mpi(const cluster::Launch& launch, double timeout_s) {
  const std::shared_ptr<comm::Transport> transport = comm::make_mpi_transport(timeout_s);
  std::vector<int64_t> all(static_cast<size_t>(launch.world_size));
  std::iota(all.begin(), all.end(), 0);
  const auto group = transport->make_group("store", all);
  std::shared_ptr<comm::Store> store;
  std::string place;
  comm::together(group.get(), [&] {
    if (launch.rank != 0) return;
    store = serve_store(timeout_s);
    place = place_of(*store, launch);
  });
  place = comm::gather_texts(group.get(), place).front();
  comm::together(group.get(), [&] {
    if (launch.rank != 0) store = join_store(place, timeout_s);
  });
  return {transport, store, nullptr};
}

// The last rank serves another store: what the ranks say of themselves outlives the first.
std::shared_ptr<comm::Store> make_second_store(const cluster::Launch& launch, comm::Store& first,
                                               double timeout_s) {
  const std::string key = format("second_store/{}", launch.restarts);
  const int64_t last = launch.world_size - 1;
  if (launch.rank == last) {
    const auto store = serve_store(timeout_s);
    first.set(key, place_of(*store, launch));
    return store;
  }
  std::string place;
  try {
    place = first.get(key, timeout_s);
  } catch (const CommError&) {
    throw CommError("rank {} has not come to the others within {} s", last, timeout_s);
  }
  return join_store(place, timeout_s);
}

std::shared_ptr<comm::Watchdog> make_watchdog(const cluster::Launch& launch,
                                              const std::string& host, double timeout_s,
                                              const std::shared_ptr<comm::Store>& first) {
  comm::WatchdogSettings settings{.rank = launch.rank,
                                  .world_size = launch.world_size,
                                  .host = host,
                                  .timeout_s = timeout_s,
                                  .start = launch.restarts};
  settings.tell = [](const std::string& message) {
    print_error("error", message);
    log::write_to_file(log::Level::kError, message);
  };
  settings.end = [] { ::_exit(CommError("").exit_code()); };
  return std::make_shared<comm::Watchdog>(
      settings, std::vector{first, make_second_store(launch, *first, timeout_s)});
}

// Where peers disagree on sizes, Gloo throws in a thread of its own, which nobody can catch. The
// process ends there, and with a diagnosis.
class TerminateHandler {
 public:
  static void install(const std::shared_ptr<comm::Watchdog>& watchdog) {
    watched() = watchdog;
    static const std::terminate_handler before = std::set_terminate(&run);
    default_handler() = before;
  }

 private:
  static std::weak_ptr<comm::Watchdog>& watched() {
    static std::weak_ptr<comm::Watchdog> watchdog;
    return watchdog;
  }
  static std::terminate_handler& default_handler() {
    static std::terminate_handler handler = nullptr;
    return handler;
  }

  [[noreturn]] static void run() {
    const std::type_info* type = abi::__cxa_current_exception_type();
    const std::shared_ptr<comm::Watchdog> watchdog = watched().lock();
    const bool is_of_gloo =
        type != nullptr && std::string_view(type->name()).find("gloo") != std::string_view::npos;
    if (watchdog == nullptr || !is_of_gloo) {
      default_handler()();
      std::abort();
    }
    try {
      try {
        throw;
      } catch (const std::exception& error) {
        watchdog->fail(format("gloo: {}", comm::first_line(error)));
      }
    } catch (const CommError& error) {
      ::_exit(error.exit_code());
    }
  }
};

// Ends the process where the ranks do not meet in time: what has a deadline in a run has none yet
// (MPI's start).
class StartGuard {
 public:
  StartGuard(const cluster::Launch& launch, double timeout_s)
      : thread_([this, launch, timeout_s] {
          std::unique_lock lock(mutex_);
          const std::chrono::duration<double> time(timeout_s + kStartGrace_s + turn_s(launch.rank));
          if (met_.wait_for(lock, time, [this] { return has_ended_; })) return;
          print_error("error", format("rank {} on {}: the {} ranks have not met within {} s; one "
                                      "has not started, or is stuck",
                                      launch.rank, launch.host, launch.world_size, timeout_s));
          ::_exit(CommError("").exit_code());
        }) {}
  ~StartGuard() {
    {
      const std::lock_guard lock(mutex_);
      has_ended_ = true;
    }
    met_.notify_all();
    thread_.join();
  }
  StartGuard(const StartGuard&) = delete;
  StartGuard& operator=(const StartGuard&) = delete;

  // Ranks that cannot talk yet fail one after the other: launchers end all when the first has.
  static double turn_s(int64_t rank) {
    return kTurn_s * static_cast<double>(std::min(rank, kTurns));
  }

 private:
  static constexpr double kStartGrace_s = 5.0, kTurn_s = 1.5;
  static constexpr int64_t kTurns = 10;

  std::mutex mutex_;
  std::condition_variable met_;
  bool has_ended_ = false;
  std::thread thread_;
};

// The ranks can talk to each other from then on.
Connection meet(const cluster::Launch& launch, const std::string& host,
                const comm::CommConfig& config, const std::string& device) {
  const std::string backend = agreed_backend(launch, config.backend, device);
  const StartGuard guard(launch, config.timeout_s);
  try {
    Connection connection = backend == "mpi"
                                ? connect_by_mpi(launch, config.timeout_s)
                                : connect_by_c10d(launch, config.timeout_s, backend == "nccl");
    connection.watchdog = make_watchdog(launch, host, config.timeout_s, connection.store);
    return connection;
  } catch (const CommError&) {
    std::this_thread::sleep_for(std::chrono::duration<double>(StartGuard::turn_s(launch.rank)));
    throw;
  }
}

// Emulated links on top of real ones would be neither. One rank says so: no group is there yet.
void check_emulation(const cluster::Launch& launch, const comm::EmulateConfig& config) {
  if (config.nodes == 0 || launch.local_world_size == launch.world_size) return;
  const ConfigError error(
      "comm.emulate.nodes = {} deals the ranks of one machine to emulated nodes, but {} has "
      "started them on several machines ({} of {} on {}): set it to 0",
      config.nodes, launch.launcher, launch.local_world_size, launch.world_size, launch.host);
  if (launch.rank != 0) throw comm::PeerError(0, error.exit_code());
  throw error;
}

}  // namespace

int64_t ranks_on_the_same_cores(comm::ProcessGroup* world, const std::string& host) {
  const std::string own = host + " " + ThreadPool::cores_text();
  const std::vector<std::string> all = comm::gather_texts(world, own);
  return std::count(all.begin(), all.end(), own);
}

void warn_of_few_cores(const cluster::Launch& launch, int64_t num_threads) {
  const auto cores = static_cast<int64_t>(std::thread::hardware_concurrency());
  const int64_t wanted = launch.local_world_size * std::max<int64_t>(num_threads, 1);
  if (launch.local_world_size < 2 || cores == 0 || wanted <= cores) return;
  log::warning("{} ranks with {} {} each on {}, which has {} cores: they wait for each other",
               launch.local_world_size, std::max<int64_t>(num_threads, 1),
               num_threads > 1 ? "threads" : "thread", launch.host, cores);
}

std::string describe_ranks(const comm::ParallelContext& parallel) {
  if (parallel.is_alone()) return "1";
  return format(
      "{} on {} {}, {}; experts over {}{}", parallel.world_size, parallel.topology.num_nodes(),
      parallel.topology.num_nodes() == 1 ? "node" : "nodes", parallel.transport->name(),
      parallel.ep_size, parallel.use_distributed_optimizer ? ", optimiser state over all" : "");
}

cluster::Launch find_launch() {
  return cluster::read_launch(cluster::process_environment(), cluster::host_name());
}

comm::ParallelContext connect_ranks(const cluster::Launch& launch,
                                    const comm::ParallelConfig& parallel,
                                    const comm::CommConfig& config,
                                    const std::vector<comm::Agreement>& in_common,
                                    const std::string& device) {
  if (launch.world_size == 1) return comm::alone();
  check_emulation(launch, config.emulate);
  // A peer that has gone is an error of ours, not the end of this process.
  std::signal(SIGPIPE, SIG_IGN);
  const std::string host =
      config.emulate.nodes == 0
          ? launch.host
          : comm::emulated_host(config.emulate, launch.rank, launch.world_size);
  auto [transport, store, watchdog] = meet(launch, host, config, device);
  TerminateHandler::install(watchdog);
  transport = comm::make_emulated_transport(std::move(transport), config.emulate);
  transport = comm::make_watched_transport(std::move(transport), watchdog);
  comm::ParallelContext context = comm::make_parallel_context(parallel, std::move(transport), host,
                                                              std::move(watchdog), in_common);
  context.local_rank = launch.local_rank;
  return context;
}

}  // namespace locus::app
