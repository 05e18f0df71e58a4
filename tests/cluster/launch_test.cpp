#include "locus/cluster/launch.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <set>
#include <sstream>

#include "locus/base/error.h"
#include "locus/base/file.h"
#include "tests/support/expect_error.h"

namespace locus::cluster {
namespace {

using Variables = std::map<std::string, std::string>;

Environment environment_of(const Variables& variables) {
  return [&variables](const std::string& name) -> std::optional<std::string> {
    const auto found = variables.find(name);
    return found == variables.end() ? std::nullopt : std::optional(found->second);
  };
}

Launch read(const Variables& variables) { return read_launch(environment_of(variables), "here"); }

std::string error(const Variables& variables) {
  return test::error_of<ConfigError>([&] { read(variables); });
}

// What a real launcher has set, as it was seen: NAME=VALUE lines.
Variables seen(const std::string& name) {
  std::istringstream lines(
      read_file(fs::path(LOCUS_SOURCE_DIR) / "tests/cluster/data" / (name + ".env")));
  Variables result;
  for (std::string line; std::getline(lines, line);) {
    const size_t equals = line.find('=');
    result[line.substr(0, equals)] = line.substr(equals + 1);
  }
  return result;
}

Variables with(Variables variables, const Variables& changes) {
  for (const auto& [name, value] : changes) variables[name] = value;
  return variables;
}

Variables without(Variables variables, const std::set<std::string>& names) {
  for (const std::string& name : names) variables.erase(name);
  return variables;
}

Variables united(const Variables& first, const Variables& second) { return with(first, second); }

Variables torchrun() {
  return {{"RANK", "5"},
          {"WORLD_SIZE", "8"},
          {"LOCAL_RANK", "1"},
          {"LOCAL_WORLD_SIZE", "4"},
          {"MASTER_ADDR", "node1"},
          {"MASTER_PORT", "29500"}};
}

Variables slurm() { return seen("slurm_3_nodes_cyclic_rank3"); }

void expect_ranks(const Launch& launch, const std::string& launcher, int64_t rank, int64_t size,
                  int64_t local_rank, int64_t local_size) {
  EXPECT_EQ(launch.launcher, launcher);
  EXPECT_EQ(launch.rank, rank);
  EXPECT_EQ(launch.world_size, size);
  EXPECT_EQ(launch.local_rank, local_rank);
  EXPECT_EQ(launch.local_world_size, local_size);
  EXPECT_EQ(launch.host, "here");
}

void expect_alone(const Variables& variables) {
  const Launch launch = read(variables);
  expect_ranks(launch, "none", 0, 1, 0, 1);
  EXPECT_EQ(launch.master_addr, "");
  EXPECT_EQ(launch.master_port, 0);
  EXPECT_EQ(launch.job, "");
  EXPECT_FALSE(launch.agent_has_store);
}

void expect_in(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << text << "\nlacks: " << part;
}

TEST(Launch, IsAloneWithoutALauncher) {
  expect_alone({});
  expect_alone({{"PATH", "/bin"}, {"MASTER_ADDR", "node1"}, {"MASTER_PORT", "29500"}});
  expect_alone({{"OMP_NUM_THREADS", "2"}, {"OMPI_MCA_btl", "tcp,self"}});
}

TEST(Launch, ReadsTheEnvironmentOfTheProcess) {
  ::setenv("LOCUS_LAUNCH_TEST", "", 1);
  EXPECT_EQ(process_environment()("LOCUS_LAUNCH_TEST"), "");
  ::setenv("LOCUS_LAUNCH_TEST", "a b", 1);
  EXPECT_EQ(process_environment()("LOCUS_LAUNCH_TEST"), "a b");
  ::unsetenv("LOCUS_LAUNCH_TEST");
  EXPECT_EQ(process_environment()("LOCUS_LAUNCH_TEST"), std::nullopt);
}

TEST(Launch, KnowsTheNameOfTheHost) {
  EXPECT_FALSE(host_name().empty());
  EXPECT_EQ(host_name().find('\0'), std::string::npos);
}

TEST(Launch, UnderstandsTorchrunOnOneNode) {
  const Launch launch = read(seen("torchrun_1x2_rank1"));
  expect_ranks(launch, "torchrun", 1, 2, 1, 2);
  EXPECT_EQ(launch.master_addr, "localhost");
  EXPECT_EQ(launch.master_port, 32935);
  EXPECT_TRUE(launch.agent_has_store);
  EXPECT_EQ(launch.job, "29db6f4f-39f4-4314-9483-3cf4638a56c1");
  EXPECT_EQ(launch.restarts, 0);
}

TEST(Launch, UnderstandsTorchrunOnTwoNodes) {
  const Launch launch = read(seen("torchrun_2x2_rank3"));
  expect_ranks(launch, "torchrun", 3, 4, 1, 2);
  EXPECT_EQ(launch.master_port, 33339);
  EXPECT_EQ(launch.job, "") << "none is no name";
}

TEST(Launch, CountsTheRestartsOfTorchrun) {
  const Variables restarted =
      with(torchrun(), {{"TORCHELASTIC_RESTART_COUNT", "3"}, {"TORCHELASTIC_RUN_ID", "job7"}});
  EXPECT_EQ(read(restarted).restarts, 3);
  EXPECT_EQ(read(restarted).job, "job7");
  EXPECT_EQ(error(with(torchrun(), {{"TORCHELASTIC_RESTART_COUNT", "-1"}})),
            "environment variable TORCHELASTIC_RESTART_COUNT = \"-1\" must be an integer in "
            "[0, 2147483647]");
}

TEST(Launch, TakesVariablesThatAUserSetsWithoutAnAgent) {
  const Launch launch = read(torchrun());
  expect_ranks(launch, "torchrun", 5, 8, 1, 4);
  EXPECT_FALSE(launch.agent_has_store);
  EXPECT_FALSE(read(with(torchrun(), {{"TORCHELASTIC_USE_AGENT_STORE", "False"}})).agent_has_store);
  EXPECT_TRUE(read(with(torchrun(), {{"TORCHELASTIC_USE_AGENT_STORE", "True"}})).agent_has_store);
  EXPECT_EQ(error(with(torchrun(), {{"TORCHELASTIC_USE_AGENT_STORE", "maybe"}})),
            "environment variable TORCHELASTIC_USE_AGENT_STORE = \"maybe\" must be True or False");
}

TEST(Launch, NamesTheVariableOfTorchrunThatIsMissing) {
  EXPECT_EQ(error({{"RANK", "0"}}),
            "environment variable WORLD_SIZE is missing, but RANK = \"0\" is set: torchrun sets "
            "RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE; set all of them or none");
  for (const std::string name :
       {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}) {
    expect_in(error(without(torchrun(), {name})),
              "environment variable " + name + " is missing, but ");
  }
  for (const std::string name : {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"}) {
    expect_in(error({{name, "1"}}), " is missing, but " + name + " = \"1\" is set");
  }
}

TEST(Launch, RefusesWhatIsNoNumber) {
  for (const std::string name :
       {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT"}) {
    for (const std::string value : {"abc", "", " 1", "1 ", "1.0", "+1", "-1", "0x1", "1e0", "1\n",
                                    "2147483648", "9223372036854775808", "99999999999999999999"}) {
      const std::string message = error(with(torchrun(), {{name, value}}));
      expect_in(message, "environment variable " + name + " = \"");
      expect_in(message, "must be an integer in [");
      EXPECT_EQ(message.find('\n'), std::string::npos);
    }
  }
}

TEST(Launch, ShowsNoEndlessValue) {
  EXPECT_LT(error(with(torchrun(), {{"RANK", std::string(100'000, '7')}})).size(), 250U);
}

TEST(Launch, RefusesRanksThatContradictTheirNumber) {
  EXPECT_EQ(error(with(torchrun(), {{"RANK", "8"}})),
            "environment variable RANK = \"8\" must be an integer in [0, 7]: it is below "
            "WORLD_SIZE = 8");
  EXPECT_EQ(error(with(torchrun(), {{"LOCAL_RANK", "4"}})),
            "environment variable LOCAL_RANK = \"4\" must be an integer in [0, 3]: it is below "
            "LOCAL_WORLD_SIZE = 4");
  EXPECT_EQ(error(with(torchrun(), {{"LOCAL_WORLD_SIZE", "9"}})),
            "environment variable LOCAL_WORLD_SIZE = \"9\" must be an integer in [1, 8]: it is at "
            "most WORLD_SIZE = 8");
  expect_in(error(with(torchrun(), {{"WORLD_SIZE", "0"}})), "WORLD_SIZE = \"0\" must be");
  expect_in(error(with(torchrun(), {{"LOCAL_WORLD_SIZE", "0"}})), "LOCAL_WORLD_SIZE = \"0\" must");
  expect_ranks(read(with(torchrun(), {{"RANK", "7"}, {"LOCAL_RANK", "3"}})), "torchrun", 7, 8, 3,
               4);
}

TEST(Launch, RefusesWhatIsNoPort) {
  for (const std::string value : {"0", "70000", "65536", "-29500"}) {
    EXPECT_EQ(
        error(with(torchrun(), {{"MASTER_PORT", value}})),
        "environment variable MASTER_PORT = \"" + value + "\" must be an integer in [1, 65535]");
  }
  EXPECT_EQ(read(with(torchrun(), {{"MASTER_PORT", "65535"}})).master_port, 65535);
  EXPECT_EQ(read(with(torchrun(), {{"MASTER_PORT", "1"}})).master_port, 1);
}

TEST(Launch, RefusesWhatIsNoAddress) {
  for (const std::string value : {"", " ", "node 1", "node1\n", "n\xc3\xb6"}) {
    expect_in(error(with(torchrun(), {{"MASTER_ADDR", value}})),
              "environment variable MASTER_ADDR");
  }
  EXPECT_EQ(error(with(torchrun(), {{"MASTER_ADDR", "node1:29500"}})),
            "environment variable MASTER_ADDR = \"node1:29500\" must be a name or an address "
            "alone: the port goes to MASTER_PORT");
  EXPECT_EQ(read(with(torchrun(), {{"MASTER_ADDR", "fd00::2"}})).master_addr, "fd00::2");
}

TEST(Launch, UnderstandsOpenMpi) {
  const Launch launch = read(seen("open_mpi_4_rank1"));
  expect_ranks(launch, "mpirun", 1, 2, 1, 2);
  EXPECT_EQ(launch.job, "1222836225");
  EXPECT_FALSE(launch.agent_has_store);
}

TEST(Launch, DerivesAMeetingPlaceForMpiOnOneNode) {
  const Variables rank1 = seen("open_mpi_4_rank1");
  const Variables rank0 =
      with(rank1, {{"OMPI_COMM_WORLD_RANK", "0"}, {"OMPI_COMM_WORLD_LOCAL_RANK", "0"}});
  const Launch launch = read(rank1);
  EXPECT_EQ(launch.master_addr, "127.0.0.1");
  EXPECT_GE(launch.master_port, 20000);
  EXPECT_LE(launch.master_port, 39999);
  EXPECT_EQ(read(rank0).master_port, launch.master_port);
  EXPECT_NE(read(with(rank1, {{"PMIX_NAMESPACE", "1222836226"}})).master_port, launch.master_port);
}

TEST(Launch, DerivesNoMeetingPlaceForMpiOnManyNodes) {
  const Launch launch = read(with(seen("open_mpi_4_rank1"), {{"OMPI_COMM_WORLD_SIZE", "4"}}));
  EXPECT_EQ(launch.master_addr, "");
  EXPECT_EQ(launch.master_port, 0);
}

TEST(Launch, HonoursTheMeetingPlaceThatAUserExportsToMpi) {
  for (const char* name : {"open_mpi_4_rank1", "mpich_4_rank1"}) {
    const Variables exported =
        with(seen(name), {{"MASTER_ADDR", "node7"}, {"MASTER_PORT", "1234"}});
    EXPECT_EQ(read(exported).master_addr, "node7");
    EXPECT_EQ(read(exported).master_port, 1234);
    EXPECT_EQ(error(without(exported, {"MASTER_PORT"})),
              "environment variable MASTER_PORT is missing, but MASTER_ADDR = \"node7\" is set: "
              "under mpirun, give all ranks both or none of them");
    expect_in(error(without(exported, {"MASTER_ADDR"})), "MASTER_ADDR is missing, but MASTER_PORT");
    expect_in(error(with(exported, {{"MASTER_PORT", "70000"}})), "MASTER_PORT = \"70000\"");
  }
}

TEST(Launch, FindsTheNameOfAnOlderOpenMpisJob) {
  const Variables older = with(without(seen("open_mpi_4_rank1"), {"PMIX_NAMESPACE"}),
                               {{"OMPI_MCA_orte_hnp_uri", "1222836224.0;tcp://192.0.2.2:41803"}});
  EXPECT_EQ(read(older).job, "1222836224.0");
  const Launch nameless = read(without(older, {"OMPI_MCA_orte_hnp_uri"}));
  EXPECT_EQ(nameless.job, "");
  EXPECT_EQ(nameless.master_port, 0);
}

TEST(Launch, NamesTheVariableOfMpiThatIsMissingOrWrong) {
  const Variables open_mpi = seen("open_mpi_4_rank1");
  for (const std::string part : {"RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE"}) {
    const std::string name = "OMPI_COMM_WORLD_" + part;
    expect_in(error(without(open_mpi, {name})), "environment variable " + name + " is missing");
    expect_in(error(with(open_mpi, {{name, "2x"}})), name + " = \"2x\" must be an integer in");
    expect_in(error(with(open_mpi, {{name, "-1"}})), name + " = \"-1\" must be an integer in");
  }
  expect_in(error(with(open_mpi, {{"OMPI_COMM_WORLD_RANK", "2"}})),
            "OMPI_COMM_WORLD_RANK = \"2\" must be an integer in [0, 1]: it is below "
            "OMPI_COMM_WORLD_SIZE = 2");
  const Variables mpich = seen("mpich_4_rank1");
  for (const std::string name : {"PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"}) {
    expect_in(error(without(mpich, {name})), "environment variable " + name + " is missing");
    expect_in(error(with(mpich, {{name, "2x"}})), name + " = \"2x\" must be an integer in");
  }
}

TEST(Launch, UnderstandsMpich) {
  const Launch launch = read(seen("mpich_4_rank1"));
  expect_ranks(launch, "mpirun", 1, 2, 1, 2);
  EXPECT_EQ(launch.job, "");
  EXPECT_EQ(launch.master_port, 0) << "nothing that two jobs on a machine would not share";
}

TEST(Launch, UnderstandsAStepOfSlurm) {
  const Launch launch = read(slurm());
  expect_ranks(launch, "srun", 3, 5, 1, 3);
  EXPECT_EQ(launch.master_addr, "node1");
  EXPECT_GE(launch.master_port, 20000);
  EXPECT_LE(launch.master_port, 39999);
  EXPECT_EQ(launch.job, "1.0");
  EXPECT_EQ(launch.restarts, 0);
  EXPECT_EQ(read(with(slurm(), {{"SLURM_RESTART_COUNT", "2"}})).restarts, 2);
}

TEST(Launch, TakesSlurmsOwnPmiForSlurm) {
  expect_ranks(read(seen("slurm_pmi2_rank4")), "srun", 4, 5, 0, 1);
}

TEST(Launch, RunsAloneInABatchScript) {
  expect_alone(seen("slurm_batch_script"));
  EXPECT_EQ(seen("slurm_batch_script").at("SLURM_NTASKS"), "5");
}

TEST(Launch, SeesThatABatchScriptHasTheVariablesOfTheStepThatSubmittedIt) {
  EXPECT_EQ(error(seen("slurm_batch_script_from_step")),
            "environment variable SLURM_NTASKS = \"5\" must be SLURM_STEP_NUM_TASKS = 3: they tell "
            "of two steps; start the tasks with srun, or unset SLURM_STEP_ID to run alone");
  const Variables from_one_task =
      with(seen("slurm_batch_script_from_step"), {{"SLURM_STEP_NUM_TASKS", "1"},
                                                  {"SLURM_STEP_NUM_NODES", "1"},
                                                  {"SLURM_STEP_TASKS_PER_NODE", "1"}});
  expect_ranks(read(from_one_task), "srun", 0, 1, 0, 1);
}

TEST(Launch, RunsAloneInASlurmShell) {
  for (const std::string step : {"4294967290", "4294967291", "4294967292", "4294967294"}) {
    expect_alone(with(slurm(), {{"SLURM_STEP_ID", step}}));
  }
  expect_alone(without(slurm(), {"SLURM_STEP_ID"}));
  expect_alone(without(slurm(), {"SLURM_PROCID"}));
}

TEST(Launch, DerivesOnePortForAllTasksOfAStep) {
  const int64_t port = read(slurm()).master_port;
  const Variables other_task =
      with(slurm(), {{"SLURM_PROCID", "1"}, {"SLURM_NODEID", "1"}, {"SLURM_LOCALID", "0"}});
  EXPECT_EQ(read(other_task).master_port, port);
  std::set<int64_t> ports;
  for (int64_t job = 1000; job < 1010; ++job) {
    for (int64_t step = 0; step < 10; ++step) {
      ports.insert(read(with(slurm(), {{"SLURM_JOB_ID", std::to_string(job)},
                                       {"SLURM_STEP_ID", std::to_string(step)}}))
                       .master_port);
    }
  }
  EXPECT_EQ(ports.size(), 100U) << "neighbours on a node must not meet";
  const Variables last = with(slurm(), {{"SLURM_JOB_ID", "4294967295"}});
  EXPECT_GE(read(last).master_port, 20000);
  EXPECT_LE(read(last).master_port, 39999);
}

TEST(Launch, HonoursTheMeetingPlaceThatAUserExportsToSlurm) {
  EXPECT_EQ(read(with(slurm(), {{"MASTER_ADDR", "10.0.0.1"}})).master_addr, "10.0.0.1");
  EXPECT_EQ(read(with(slurm(), {{"MASTER_PORT", "1234"}})).master_port, 1234);
  expect_in(error(with(slurm(), {{"MASTER_PORT", "0"}})), "MASTER_PORT = \"0\"");
  expect_in(error(with(slurm(), {{"MASTER_ADDR", ""}})), "MASTER_ADDR = \"\"");
}

TEST(Launch, FindsTheFirstHostOfSlurmsList) {
  const Variables lists = {{"node[03-05,07]", "node03"},
                           {"node[3,1]", "node3"},
                           {"node7", "node7"},
                           {"login,node[1-2]", "login"},
                           {"node[1-2],login", "node1"},
                           {"rack[1-2]n[003-004]", "rack1n003"},
                           {"gpu[10-11]-ib.site,x", "gpu10-ib.site"},
                           {"a-b-c", "a-b-c"},
                           {"n[000]", "n000"}};
  for (const auto& [list, host] : lists) {
    EXPECT_EQ(read(with(slurm(), {{"SLURM_STEP_NODELIST", list}})).master_addr, host) << list;
  }
}

TEST(Launch, RefusesWhatIsNoListOfHosts) {
  for (const std::string list : {"", ",node1", "node[", "node]", "node[]", "node[1-2", "node[-2]",
                                 "node[a-b]", "node[[1]]", "node 1", "node[,1]", "(null) ", "\n"}) {
    const std::string message = error(with(slurm(), {{"SLURM_STEP_NODELIST", list}}));
    expect_in(message, "environment variable SLURM_STEP_NODELIST = \"");
    expect_in(message, "must be a list of hosts");
  }
}

TEST(Launch, CountsTheTasksOfANode) {
  struct Case {
    std::string counts, num_tasks, node, local;
    int64_t local_size;
  };
  for (const Case& c : {Case{"2(x3),1", "7", "0", "1", 2}, Case{"2(x3),1", "7", "2", "1", 2},
                        Case{"2(x3),1", "7", "3", "0", 1}, Case{"1,2(x3)", "7", "1", "1", 2},
                        Case{"7", "7", "0", "6", 7}, Case{"3,4(x1)", "7", "1", "3", 4},
                        Case{"8(x250000000)", "2000000000", "249999999", "7", 8}}) {
    const Launch launch = read(with(slurm(), {{"SLURM_STEP_TASKS_PER_NODE", c.counts},
                                              {"SLURM_STEP_NUM_TASKS", c.num_tasks},
                                              {"SLURM_NTASKS", c.num_tasks},
                                              {"SLURM_NODEID", c.node},
                                              {"SLURM_LOCALID", c.local}}));
    EXPECT_EQ(launch.local_world_size, c.local_size) << c.counts << " node " << c.node;
    EXPECT_EQ(launch.local_rank, std::stoll(c.local));
  }
}

TEST(Launch, RefusesWhatIsNoCountOfTasks) {
  for (const std::string counts : {"",
                                   ",",
                                   "5,",
                                   ",5",
                                   "a",
                                   "5(x",
                                   "5(x)",
                                   "5(x1",
                                   "5(x0)",
                                   "5(x-1)",
                                   "(x5)",
                                   "0(x5)",
                                   "-1,6",
                                   "5(y1)",
                                   "5 (x1)",
                                   "5(x1)2",
                                   "2147483647(x2147483647)",
                                   "99999999999999999999",
                                   "1(x99999999999999999999)",
                                   "2147483647,2147483647(x2147483647)"}) {
    const std::string message = error(with(slurm(), {{"SLURM_STEP_TASKS_PER_NODE", counts}}));
    expect_in(message, "environment variable SLURM_STEP_TASKS_PER_NODE = \"" + counts +
                           "\" must be tasks of each node, as in 2(x3),1");
  }
}

TEST(Launch, RefusesASlurmStepThatContradictsItself) {
  EXPECT_EQ(error(with(slurm(), {{"SLURM_STEP_TASKS_PER_NODE", "3,1"}})),
            "environment variable SLURM_STEP_TASKS_PER_NODE = \"3,1\" is 4 tasks, but "
            "SLURM_STEP_NUM_TASKS = 5");
  EXPECT_EQ(error(with(slurm(), {{"SLURM_NODEID", "3"}})),
            "environment variable SLURM_STEP_TASKS_PER_NODE = \"3,1(x2)\" tells of 3 nodes, but "
            "SLURM_NODEID = 3");
  EXPECT_EQ(error(with(slurm(), {{"SLURM_LOCALID", "3"}})),
            "environment variable SLURM_LOCALID = \"3\" must be an integer in [0, 2]: "
            "SLURM_STEP_TASKS_PER_NODE = 3,1(x2) gives this node 3 tasks");
  EXPECT_EQ(error(with(slurm(), {{"SLURM_PROCID", "5"}})),
            "environment variable SLURM_PROCID = \"5\" must be an integer in [0, 4]: it is below "
            "SLURM_STEP_NUM_TASKS = 5");
  for (const std::string name :
       {"SLURM_PROCID", "SLURM_STEP_ID", "SLURM_STEP_NUM_TASKS", "SLURM_NODEID", "SLURM_LOCALID",
        "SLURM_JOB_ID", "SLURM_RESTART_COUNT"}) {
    for (const std::string value : {"", "x", "-1", "99999999999999999999"}) {
      expect_in(error(with(slurm(), {{name, value}})),
                "environment variable " + name + " = \"" + value + "\" must be an integer in [");
    }
  }
}

TEST(Launch, TakesTheOlderNamesOfSlurm) {
  const Variables older = without(slurm(), {"SLURM_STEP_NUM_TASKS", "SLURM_STEP_TASKS_PER_NODE",
                                            "SLURM_STEP_NODELIST", "SLURM_JOB_ID"});
  const Launch launch = read(older);
  expect_ranks(launch, "srun", 3, 5, 1, 3);
  EXPECT_EQ(launch.job, "1.0");
  EXPECT_EQ(launch.master_addr, "node1");
}

TEST(Launch, NamesTheVariableOfSlurmThatIsMissing) {
  const std::map<std::string, std::set<std::string>> names = {
      {"SLURM_STEP_NUM_TASKS", {"SLURM_STEP_NUM_TASKS", "SLURM_NTASKS"}},
      {"SLURM_NODEID", {"SLURM_NODEID"}},
      {"SLURM_LOCALID", {"SLURM_LOCALID"}},
      {"SLURM_STEP_TASKS_PER_NODE", {"SLURM_STEP_TASKS_PER_NODE", "SLURM_TASKS_PER_NODE"}},
      {"SLURM_JOB_ID", {"SLURM_JOB_ID", "SLURM_JOBID"}},
      {"SLURM_STEP_NODELIST", {"SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST"}}};
  for (const auto& [name, unset] : names) {
    EXPECT_EQ(error(without(slurm(), unset)),
              "environment variable " + name +
                  " is missing, but SLURM_PROCID = \"3\" is set: srun sets both for the tasks of a "
                  "step");
  }
}

TEST(Launch, LetsTheInnermostLauncherWin) {
  expect_ranks(read(seen("open_mpi_4_in_slurm_step_rank1")), "mpirun", 1, 2, 1, 2);
  expect_ranks(read(united(slurm(), seen("mpich_4_rank1"))), "mpirun", 1, 2, 1, 2);
  expect_ranks(read(united(slurm(), seen("torchrun_2x2_rank3"))), "torchrun", 3, 4, 1, 2);
  expect_ranks(read(united(seen("open_mpi_4_rank1"), seen("torchrun_2x2_rank3"))), "torchrun", 3, 4,
               1, 2);
  expect_ranks(read(united(seen("slurm_batch_script_from_step"), seen("torchrun_1x2_rank1"))),
               "torchrun", 1, 2, 1, 2);
  expect_ranks(read(united(seen("slurm_batch_script"), seen("open_mpi_4_rank1"))), "mpirun", 1, 2,
               1, 2);
}

TEST(Launch, DoesNotHideAPartialLauncherBehindAWholeOne) {
  expect_in(error(with(slurm(), {{"RANK", "3"}})), "WORLD_SIZE is missing, but RANK");
  expect_in(error(with(slurm(), {{"OMPI_COMM_WORLD_SIZE", "5"}})),
            "OMPI_COMM_WORLD_RANK is missing");
}

}  // namespace
}  // namespace locus::cluster
