#include "locus/cluster/launch.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstdlib>
#include <initializer_list>
#include <limits>
#include <span>
#include <string_view>

#include "locus/base/error.h"
#include "locus/base/hash.h"

namespace locus::cluster {
namespace {

using Names = std::span<const std::string_view>;

constexpr std::array<std::string_view, 4> kTorchrunNames = {"RANK", "WORLD_SIZE", "LOCAL_RANK",
                                                            "LOCAL_WORLD_SIZE"};
constexpr std::array<std::string_view, 4> kOpenMpiNames = {
    "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK",
    "OMPI_COMM_WORLD_LOCAL_SIZE"};
constexpr std::array<std::string_view, 4> kPmiNames = {"PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID",
                                                       "MPI_LOCALNRANKS"};

constexpr int64_t kMostRanks = std::numeric_limits<int32_t>::max();
constexpr int64_t kLargestPort = 65535;
// Below the ports that Linux gives to outgoing connections (from 32768).
constexpr uint64_t kFirstPort = 20000, kNumPorts = 12768;
// Slurm numbers steps that are none downwards from here: batch script, interactive shell, extern.
constexpr int64_t kFirstSpecialStep = 0xfffffff0, kLastSpecialStep = 0xffffffff;

std::optional<int64_t> parse_integer(std::string_view text) {
  int64_t value = 0;
  const char* const end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end) return std::nullopt;
  return value;
}

// A value for a message: quoted, on one line, not too long.
std::string shown(std::string_view value) {
  constexpr size_t kLongest = 80;
  std::string text(value.substr(0, kLongest));
  std::replace_if(
      text.begin(), text.end(), [](char c) { return c < ' ' || c > '~'; }, '?');
  return "\"" + text + (value.size() > kLongest ? "...\"" : "\"");
}

std::string joined(Names names) {
  std::string result;
  for (const std::string_view name : names) {
    if (!result.empty()) result += ", ";
    result += name;
  }
  return result;
}

[[noreturn]] void fail(std::string_view name, std::string_view value, std::string_view what) {
  throw ConfigError("environment variable {} = {} {}", name, shown(value), what);
}

class Variables {
 public:
  explicit Variables(const Environment& environment) : environment_(environment) {}

  std::optional<std::string> find(std::string_view name) const {
    return environment_(std::string(name));
  }
  bool has(std::string_view name) const { return find(name).has_value(); }

  int64_t integer(std::string_view name, int64_t least, int64_t most,
                  std::string_view why = "") const {
    const std::string text = find(name).value_or("");
    const std::optional<int64_t> value = parse_integer(text);
    if (!value || *value < least || *value > most) {
      fail(name, text, format("must be an integer in [{}, {}]{}", least, most, why));
    }
    return *value;
  }

  // The first of these names that is set: launchers rename their variables. "": none is.
  std::string_view first_set(std::initializer_list<std::string_view> names) const {
    for (const std::string_view name : names) {
      if (has(name)) return name;
    }
    return "";
  }

  // All or none of `names` are set; ConfigError where it is some.
  bool has_all(Names names, std::string_view advice) const {
    const auto is_set = [&](std::string_view name) { return has(name); };
    const auto present = std::find_if(names.begin(), names.end(), is_set);
    if (present == names.end()) return false;
    for (const std::string_view name : names) {
      if (!has(name)) {
        throw ConfigError("environment variable {} is missing, but {} = {} is set: {}", name,
                          *present, shown(find(*present).value_or("")), advice);
      }
    }
    return true;
  }

 private:
  const Environment& environment_;
};

// `names`: those of rank, world size, local rank and local world size. All are set.
Launch read_ranks(const Variables& variables, std::string_view launcher, Names names) {
  Launch launch;
  launch.launcher = launcher;
  launch.world_size = variables.integer(names[1], 1, kMostRanks);
  launch.rank = variables.integer(names[0], 0, launch.world_size - 1,
                                  format(": it is below {} = {}", names[1], launch.world_size));
  launch.local_world_size =
      variables.integer(names[3], 1, launch.world_size,
                        format(": it is at most {} = {}", names[1], launch.world_size));
  launch.local_rank =
      variables.integer(names[2], 0, launch.local_world_size - 1,
                        format(": it is below {} = {}", names[3], launch.local_world_size));
  return launch;
}

std::string read_master_addr(const Variables& variables) {
  const std::string value = variables.find("MASTER_ADDR").value_or("");
  const auto is_odd = [](char c) { return c <= ' ' || c > '~'; };
  if (value.empty() || std::any_of(value.begin(), value.end(), is_odd)) {
    fail("MASTER_ADDR", value, "must be the name or the address of the node of rank 0");
  }
  if (std::count(value.begin(), value.end(), ':') == 1) {
    fail("MASTER_ADDR", value, "must be a name or an address alone: the port goes to MASTER_PORT");
  }
  return value;
}

int64_t read_master_port(const Variables& variables) {
  return variables.integer("MASTER_PORT", 1, kLargestPort);
}

int64_t derived_port(uint64_t number) {
  return static_cast<int64_t>(kFirstPort + number % kNumPorts);
}

std::optional<Launch> read_torchrun(const Variables& variables) {
  const std::string advice =
      format("torchrun sets {}; set all of them or none", joined(kTorchrunNames));
  if (!variables.has_all(kTorchrunNames, advice)) return std::nullopt;
  Launch launch = read_ranks(variables, "torchrun", kTorchrunNames);
  for (const std::string_view name : {"MASTER_ADDR", "MASTER_PORT"}) {
    if (!variables.has(name)) {
      throw ConfigError(
          "environment variable {} is missing, but RANK = {} is set: torchrun sets it; without "
          "torchrun, MASTER_ADDR and MASTER_PORT say where rank 0 listens",
          name, shown(variables.find("RANK").value_or("")));
    }
  }
  launch.master_addr = read_master_addr(variables);
  launch.master_port = read_master_port(variables);
  const std::string store = variables.find("TORCHELASTIC_USE_AGENT_STORE").value_or("False");
  if (store != "True" && store != "False") {
    fail("TORCHELASTIC_USE_AGENT_STORE", store, "must be True or False");
  }
  launch.agent_has_store = store == "True";
  const std::string job = variables.find("TORCHELASTIC_RUN_ID").value_or("");
  if (job != "none") launch.job = job;  // what torchrun says where the user has named none
  if (variables.has("TORCHELASTIC_RESTART_COUNT")) {
    launch.restarts = variables.integer("TORCHELASTIC_RESTART_COUNT", 0, kMostRanks);
  }
  return launch;
}

// MPI needs no address; Gloo does. The user may export one.
void set_mpi_master(const Variables& variables, Launch* launch) {
  constexpr std::array<std::string_view, 2> kNames = {"MASTER_ADDR", "MASTER_PORT"};
  if (variables.has_all(kNames, "under mpirun, give all ranks both or none of them")) {
    launch->master_addr = read_master_addr(variables);
    launch->master_port = read_master_port(variables);
  } else if (launch->local_world_size == launch->world_size && !launch->job.empty()) {
    launch->master_addr = "127.0.0.1";
    launch->master_port = derived_port(hash128(launch->job)[1]);
  }
}

std::optional<Launch> read_open_mpi(const Variables& variables) {
  const std::string advice = format("Open MPI's mpirun sets {}", joined(kOpenMpiNames));
  if (!variables.has_all(kOpenMpiNames, advice)) return std::nullopt;
  Launch launch = read_ranks(variables, "mpirun", kOpenMpiNames);
  launch.job = variables.find("PMIX_NAMESPACE").value_or("");
  if (launch.job.empty()) {  // "3245015040.0;tcp://10.0.0.1:45563": the number is the job's
    const std::string uri = variables.find("OMPI_MCA_orte_hnp_uri").value_or("");
    launch.job = uri.substr(0, uri.find(';'));
  }
  set_mpi_master(variables, &launch);
  return launch;
}

// Slurm's own PMI sets PMI_RANK and PMI_SIZE in each step, but not the local names.
bool is_pmi_of_slurm(const Variables& variables) {
  return variables.has("SLURM_STEP_ID") && variables.has("SLURM_PROCID") &&
         !variables.has("MPI_LOCALRANKID") && !variables.has("MPI_LOCALNRANKS");
}

std::optional<Launch> read_pmi(const Variables& variables) {
  if (is_pmi_of_slurm(variables)) return std::nullopt;
  const std::string advice =
      format("the mpirun of MPICH and of Intel MPI sets {}", joined(kPmiNames));
  if (!variables.has_all(kPmiNames, advice)) return std::nullopt;
  Launch launch = read_ranks(variables, "mpirun", kPmiNames);
  set_mpi_master(variables, &launch);
  return launch;
}

struct TaskCounts {
  int64_t of_node = 0, total = 0;
};

// Slurm's "2(x3),1": three nodes of two tasks, then one of one.
TaskCounts parse_task_counts(std::string_view name, std::string_view value, int64_t node) {
  const auto check = [&](bool right) {
    if (!right) fail(name, value, "must be tasks of each node, as in 2(x3),1");
  };
  TaskCounts counts;
  int64_t num_nodes = 0;
  for (size_t begin = 0; begin <= value.size();) {
    const size_t comma = std::min(value.find(',', begin), value.size());
    std::string_view item = value.substr(begin, comma - begin);
    begin = comma + 1;
    int64_t repeats = 1;
    if (const size_t open = item.find("(x"); open != std::string_view::npos) {
      check(item.back() == ')');
      repeats = parse_integer(item.substr(open + 2, item.size() - open - 3)).value_or(0);
      item = item.substr(0, open);
    }
    const int64_t tasks = parse_integer(item).value_or(0);
    check(tasks >= 1 && tasks <= kMostRanks && repeats >= 1 && repeats <= kMostRanks);
    if (node >= num_nodes && node < num_nodes + repeats) counts.of_node = tasks;
    num_nodes += repeats;
    counts.total += tasks * repeats;  // at most 2^62
    check(counts.total <= kMostRanks);
  }
  if (counts.of_node == 0) {
    fail(name, value, format("tells of {} nodes, but SLURM_NODEID = {}", num_nodes, node));
  }
  return counts;
}

// The first of Slurm's list of hosts: "rack[1-2]n[03-05,07],login" begins with rack1n03.
std::string first_host(std::string_view name, std::string_view value) {
  const auto check = [&](bool right) {
    if (!right) fail(name, value, "must be a list of hosts, as in node[03-05,07]");
  };
  std::string host;
  for (size_t i = 0; i < value.size() && value[i] != ','; ++i) {
    if (value[i] == '[') {
      const size_t close = value.find(']', i);
      check(close != std::string_view::npos);
      const std::string_view numbers = value.substr(i + 1, close - i - 1);
      const std::string_view first = numbers.substr(0, numbers.find_first_of("-,"));
      check(!first.empty() && first.find_first_not_of("0123456789") == std::string_view::npos);
      host += first;
      i = close;
    } else {
      check(value[i] > ' ' && value[i] <= '~' && value[i] != ']');
      host += value[i];
    }
  }
  check(!host.empty());
  return host;
}

// False also for the steps that run a shell and not the job's tasks.
bool is_slurm_step(const Variables& variables) {
  if (!variables.has("SLURM_STEP_ID") || !variables.has("SLURM_PROCID")) return false;
  const int64_t step = variables.integer("SLURM_STEP_ID", 0, kLastSpecialStep);
  return step < kFirstSpecialStep;
}

std::string_view required(const Variables& variables,
                          std::initializer_list<std::string_view> names) {
  const std::string_view name = variables.first_set(names);
  if (name.empty()) {
    throw ConfigError(
        "environment variable {} is missing, but SLURM_PROCID = {} is set: srun sets "
        "both for the tasks of a step",
        *names.begin(), shown(variables.find("SLURM_PROCID").value_or("")));
  }
  return name;
}

void set_slurm_job(const Variables& variables, Launch* launch) {
  constexpr int64_t kMost = std::numeric_limits<uint32_t>::max();
  const int64_t job =
      variables.integer(required(variables, {"SLURM_JOB_ID", "SLURM_JOBID"}), 0, kMost);
  const int64_t step = variables.integer("SLURM_STEP_ID", 0, kMost);
  launch->job = format("{}.{}", job, step);
  if (variables.has("SLURM_RESTART_COUNT")) {
    launch->restarts = variables.integer("SLURM_RESTART_COUNT", 0, kMostRanks);
  }
  if (variables.has("MASTER_ADDR")) {
    launch->master_addr = read_master_addr(variables);
  } else {
    const std::string_view name =
        required(variables, {"SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST"});
    launch->master_addr = first_host(name, variables.find(name).value_or(""));
  }
  // Jobs lie apart, so that neighbours with several steps each have ports of their own.
  constexpr int64_t kStepsOfAJob = 37;
  launch->master_port = variables.has("MASTER_PORT")
                            ? read_master_port(variables)
                            : derived_port(static_cast<uint64_t>(job * kStepsOfAJob + step));
}

// sbatch called by a task of a step hands that step's variables to the batch script. srun gives its
// tasks SLURM_NTASKS anew.
void check_own_step(const Variables& variables, int64_t num_tasks) {
  if (num_tasks == 1 || !variables.has("SLURM_NTASKS")) return;
  if (variables.integer("SLURM_NTASKS", 1, kMostRanks) != num_tasks) {
    fail("SLURM_NTASKS", *variables.find("SLURM_NTASKS"),
         format("must be SLURM_STEP_NUM_TASKS = {}: they tell of two steps; start the tasks with "
                "srun, or unset SLURM_STEP_ID to run alone",
                num_tasks));
  }
}

std::optional<Launch> read_slurm(const Variables& variables) {
  if (!is_slurm_step(variables)) return std::nullopt;
  Launch launch;
  launch.launcher = "srun";
  const std::string_view size_name = required(variables, {"SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"});
  launch.world_size = variables.integer(size_name, 1, kMostRanks);
  check_own_step(variables, launch.world_size);
  launch.rank = variables.integer("SLURM_PROCID", 0, launch.world_size - 1,
                                  format(": it is below {} = {}", size_name, launch.world_size));
  const int64_t node =
      variables.integer(required(variables, {"SLURM_NODEID"}), 0, launch.world_size - 1);
  const std::string_view counts_name =
      required(variables, {"SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"});
  const std::string counts_text = variables.find(counts_name).value_or("");
  const TaskCounts counts = parse_task_counts(counts_name, counts_text, node);
  if (counts.total != launch.world_size) {
    fail(counts_name, counts_text,
         format("is {} tasks, but {} = {}", counts.total, size_name, launch.world_size));
  }
  launch.local_world_size = counts.of_node;
  launch.local_rank = variables.integer(
      required(variables, {"SLURM_LOCALID"}), 0, counts.of_node - 1,
      format(": {} = {} gives this node {} tasks", counts_name, counts_text, counts.of_node));
  set_slurm_job(variables, &launch);
  return launch;
}

}  // namespace

Environment process_environment() {
  return [](const std::string& name) -> std::optional<std::string> {
    const char* value = std::getenv(name.c_str());
    return value == nullptr ? std::nullopt : std::optional<std::string>(value);
  };
}

Launch read_launch(const Environment& environment, const std::string& host) {
  const Variables variables(environment);
  std::optional<Launch> launch;
  for (const auto read : {read_torchrun, read_open_mpi, read_pmi, read_slurm}) {
    if (!launch) launch = read(variables);
  }
  if (!launch) launch.emplace();
  launch->host = host;
  return *launch;
}

std::string host_name() {
  std::array<char, 257> name{};  // POSIX: at most 255 bytes
  LOCUS_CHECK(::gethostname(name.data(), name.size() - 1) == 0);
  return name.data();
}

}  // namespace locus::cluster
