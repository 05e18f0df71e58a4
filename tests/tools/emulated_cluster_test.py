"""Tests of tools/emulated_cluster: its plan everywhere, its clusters where root can make them."""
import contextlib
import io
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import unittest.mock

ROOT = pathlib.Path(__file__).parents[2]
TOOL = ROOT / "tools" / "emulated_cluster"
sys.path.insert(0, str(ROOT / "tools"))

from cluster_emulation import cleanup, cpu_shares, main, processes

CANNOT_BE_MADE_HERE = 77


def run_tool(*arguments, **settings):
    return subprocess.run([TOOL, *arguments], capture_output=True, text=True, timeout=200, **settings)


def traces(pid):
    """What a run has on the machine."""
    return [path for paths in cleanup.traces_of(pid) for path in paths]


def sleepers(marker):
    """The processes of the command `sleep marker`."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if path.read_text() == f"sleep\0{marker}\0":
                found.append(int(path.parent.name))
    return found


class Arguments(unittest.TestCase):
    def refused(self, *arguments):
        result = run_tool(*arguments)
        self.assertEqual(result.returncode, 2, result)
        self.assertEqual(len(result.stderr.splitlines()), 1, result.stderr)
        return result.stderr

    def test_without_a_command_it_says_where_to_give_it(self):
        self.assertIn("no command: give it after --", self.refused())
        self.assertIn("no command: give it after --", self.refused("--nodes", "2", "--"))

    def test_command_without_dashes_is_refused(self):
        self.assertIn("hostname", self.refused("--nodes", "2", "hostname"))

    def test_bad_values_are_named(self):
        for option, value in (("--nodes", "0"), ("--nodes", "251"), ("--nodes", "2.5"), ("--ranks-per-node", "-1"),
                              ("--rate", "1"), ("--rate", "1gb"), ("--rate", "0gbit"), ("--rate", "1bit"),
                              ("--rate", "2tbit"), ("--rate", "nangbit"), ("--latency", "50"), ("--latency", "0us"),
                              ("--cpu-share", "0"), ("--cpu-share", "nan"), ("--cpu-share", "inf"),
                              ("--launcher", "srun")):
            with self.subTest(option=option, value=value):
                message = self.refused(option, value, "--dry-run", "--", "true")
                self.assertIn(option, message)
                self.assertIn(value, message)

    def test_share_and_no_share_contradict_each_other(self):
        self.assertIn("not allowed with", self.refused("--cpu-share", "0.5", "--no-cpu-share", "--", "true"))

    def test_default_share_leaves_room_on_each_core(self):
        with unittest.mock.patch("os.sched_getaffinity", return_value={0, 1}):
            for nodes, share in ((1, 0.9), (2, 0.9), (3, 0.45), (4, 0.45), (250, 0.01)):
                self.assertEqual(main.parse(["--nodes", str(nodes), "--check"]).share, share)

    def test_options_of_the_command_stay_its_own(self):
        result = run_tool("--dry-run", "--", "train", "--nodes", "-1", "--", "x y")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(shlex.split(result.stdout.splitlines()[-1])[-5:], ["train", "--nodes", "-1", "--", "x y"])


class Plan(unittest.TestCase):
    def plan(self, *arguments):
        result = run_tool(*arguments, "--dry-run", "--", "program", "--flag")
        self.assertEqual(result.returncode, 0, result.stderr)
        return [shlex.split(line) for line in result.stdout.splitlines() if not line.startswith("#")]

    def test_dry_run_needs_no_root_and_makes_nothing(self):
        with unittest.mock.patch("os.geteuid", return_value=1000), \
                contextlib.redirect_stdout(io.StringIO()) as output:
            self.assertEqual(main.main(["--dry-run", "--", "true"]), 0)
        self.assertIn("ip netns add", output.getvalue())
        self.assertEqual(traces(os.getpid()), [])

    def test_both_ends_of_each_link_are_shaped(self):
        shaped = [command for command in self.plan("--nodes", "3", "--rate", "1.5gbit") if "tbf" in command]
        self.assertEqual(sorted(command[command.index("dev") + 1] for command in shaped),
                         ["eth0"] * 3 + ["port0", "port1", "port2"])
        for command in shaped:
            self.assertEqual(command[command.index("rate") + 1], "1500000000bit")
            self.assertEqual(command[command.index("burst") + 1], "187500b", "1 ms")

    def test_slow_links_keep_a_burst_for_a_large_segment(self):
        command = next(command for command in self.plan("--rate", "1mbit") if "tbf" in command)
        self.assertEqual(command[command.index("burst") + 1], "32768b")

    def test_latency_is_added_once_on_each_way(self):
        delayed = [command for command in self.plan("--nodes", "3", "--latency", "1.5ms") if "netem" in command]
        self.assertEqual([command[command.index("dev") + 1] for command in delayed], ["port0", "port1", "port2"])
        self.assertTrue(all("1500us" in command for command in delayed))

    def test_without_rate_and_latency_nothing_is_shaped(self):
        self.assertFalse([command for command in self.plan() if command[0] == "tc"])

    def test_nothing_touches_the_networks_of_the_machine(self):
        for command in self.plan("--rate", "1gbit", "--latency", "1ms"):
            if command[0] in ("ip", "tc"):
                place = command[3] if command[1:3] == ["netns", "add"] else command[2]
                self.assertRegex(place, r"^locus-\d+-(sw|n\d+)$")

    def test_mpirun_starts_all_ranks_from_node_0(self):
        command = self.plan("--nodes", "3", "--ranks-per-node", "2")[-1]
        self.assertEqual(command[1:3], ["0", "mpirun"])
        self.assertEqual(command[command.index("-n") + 1], "6")
        self.assertEqual(command[command.index("--host") + 1], "node0:2,node1:2,node2:2")
        self.assertEqual(command[command.index("--bind-to") + 1], "none")
        network = command[command.index("btl_tcp_if_include") + 1]
        self.assertRegex(network, r"^10\.\d+\.0\.0/24$")
        self.assertEqual(command[command.index("oob_tcp_if_include") + 1], network)
        self.assertEqual(command[-2:], ["program", "--flag"])

    def test_torchrun_is_started_on_each_node(self):
        commands = self.plan("--nodes", "3", "--ranks-per-node", "2", "--launcher", "torchrun")[-3:]
        for node, command in enumerate(commands):
            self.assertEqual(command[1:3], [str(node), "torchrun"])
            self.assertEqual(command[command.index("--node-rank") + 1], str(node))
            self.assertEqual(command[command.index("--nproc-per-node") + 1], "2")
            self.assertRegex(command[command.index("--master-addr") + 1], r"^10\.\d+\.0\.1$")


class Shares(unittest.TestCase):
    def test_quota_keeps_the_share_and_is_at_least_a_millisecond(self):
        for share in (0.01, 0.033, 0.1, 0.2, 0.25, 0.333, 1, 1.5, 64):
            quota, period = cpu_shares.quota_and_period(share)
            self.assertGreaterEqual(quota, 1000)
            self.assertGreaterEqual(period, 5000)
            self.assertLessEqual(period, 10000 if share >= 0.1 else 1000000)
            self.assertAlmostEqual(quota / period, share, delta=share / 1000)

    def test_version_1_is_found_where_it_has_the_controller(self):
        mounts = ("cgroup2 /c/unified cgroup2 rw 0 0\ncgroup /c/cpuset cgroup rw,cpuset 0 0\n"
                  "cgroup /c/cpu cgroup rw,cpu,cpuacct 0 0\n")
        self.assertEqual(cpu_shares.cpu_hierarchy(mounts), (pathlib.Path("/c/cpu"), 1))

    def test_without_the_controller_quotas_are_unavailable_by_name(self):
        with self.assertRaisesRegex(processes.Unavailable, "no CPU quotas.*--no-cpu-share"):
            cpu_shares.cpu_hierarchy("cgroup /c/cpuset cgroup rw,cpuset 0 0\n")

    def test_version_2_gets_the_controller_from_the_root_down(self):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder)
            (root / "cgroup.controllers").write_text("cpuset cpu io\n")
            self.assertEqual(cpu_shares.cpu_hierarchy(f"cgroup2 {root} cgroup2 rw 0 0\n"), (root, 2))
            for path in ("cgroup.subtree_control", "j/cgroup.subtree_control", "j/rank0/cpu.max"):
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).touch()
            cpu_shares.make_cgroups(cpu_shares.cgroup_writes(root, 2, "j", 1, 0.25))
            self.assertEqual((root / "cgroup.subtree_control").read_text(), "+cpu")
            self.assertEqual((root / "j/cgroup.subtree_control").read_text(), "+cpu")
            self.assertEqual((root / "j/rank0/cpu.max").read_text(), "1250 5000")
            self.assertFalse((root / "j/rank0/cpu.max.burst").exists(), "an old kernel has none")

    def test_missing_quota_file_is_named(self):
        with tempfile.TemporaryDirectory() as folder:
            writes = cpu_shares.cgroup_writes(pathlib.Path(folder), 1, "j", 1, 0.25)
            with self.assertRaisesRegex(processes.Unavailable, "no CPU quotas: .*cpu.cfs_period_us.*--no-cpu-share"):
                cpu_shares.make_cgroups(writes)


class Leftovers(unittest.TestCase):
    def test_process_is_told_from_a_later_one_with_its_pid(self):
        with tempfile.TemporaryDirectory() as folder:
            state = pathlib.Path(folder)
            dead = subprocess.Popen(["true"])
            dead.wait()
            ours, parent = os.getpid(), os.getppid()
            for pid, owner in ((ours, cleanup.start_time(ours)), (parent, cleanup.start_time(parent)), (dead.pid, "1")):
                (state / str(pid)).mkdir()
                (state / str(pid) / "owner").write_text(owner)
            with unittest.mock.patch.multiple(cleanup, STATE_ROOT=state, NETNS_ROOT=state, SHARED_ROOT=state,
                                              cgroup_parents=lambda: iter(())):
                self.assertEqual(list(cleanup.dead_runs()), sorted((ours, dead.pid)), "ours: we have made nothing yet")
                (state / str(parent) / "owner").write_text("12345")
                self.assertIn(parent, cleanup.dead_runs())

    def test_zombie_counts_as_dead(self):
        child = subprocess.Popen(["true"])
        time.sleep(0.2)
        self.assertEqual(cleanup.start_time(child.pid), "")
        child.wait()

    def test_own_namespace_is_never_taken_for_a_cluster(self):
        self.assertEqual(list(cleanup.processes_in([pathlib.Path("/proc/self/ns/net")], [])), [])


class Missing(unittest.TestCase):
    def code_and_message(self, *arguments):
        with contextlib.redirect_stderr(io.StringIO()) as output, unittest.mock.patch("signal.signal"), \
                unittest.mock.patch.dict(os.environ):
            code = main.main([*arguments])
        return code, output.getvalue()

    def test_root(self):
        with unittest.mock.patch("os.geteuid", return_value=1000):
            code, message = self.code_and_message("--", "true")
        self.assertEqual(code, CANNOT_BE_MADE_HERE)
        self.assertIn("root is missing", message)

    def test_programs(self):
        for program in ("ip", "tc", "nsenter", "unshare", "mpirun"):
            with unittest.mock.patch("os.geteuid", return_value=0), \
                    unittest.mock.patch("shutil.which", lambda name, lacks=program: None if name == lacks else name):
                code, message = self.code_and_message("--", "true")
            self.assertEqual(code, CANNOT_BE_MADE_HERE)
            self.assertIn(f"{program} is missing", message)

    def test_torchrun(self):
        with unittest.mock.patch("os.geteuid", return_value=0), \
                unittest.mock.patch("shutil.which", lambda name: None if "torchrun" in str(name) else name):
            code, message = self.code_and_message("--launcher", "torchrun", "--", "true")
        self.assertEqual(code, CANNOT_BE_MADE_HERE)
        self.assertIn("torchrun is missing", message)

    def test_cores(self):
        with unittest.mock.patch("os.geteuid", return_value=0), unittest.mock.patch("shutil.which", lambda name: name):
            code, message = self.code_and_message("--cpu-share", "1000", "--", "true")
        self.assertEqual(code, CANNOT_BE_MADE_HERE)
        self.assertIn("2 ranks with 1000 cores each need more than", message)


class Real(unittest.TestCase):
    """Clusters on this machine."""

    @classmethod
    def setUpClass(cls):
        result = run_tool("--nodes", "1", "--no-cpu-share", "--check")
        if result.returncode == CANNOT_BE_MADE_HERE:
            raise unittest.SkipTest(result.stderr.strip())
        assert result.returncode == 0, result

    def tool(self, *arguments):
        result = run_tool(*arguments)
        if result.returncode == CANNOT_BE_MADE_HERE:
            self.skipTest(result.stderr.strip())
        return result

    def start(self, *arguments):
        process = subprocess.Popen([TOOL, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(self.remove, process)
        return process

    def remove(self, process):
        if process.poll() is None:
            process.kill()
            process.wait()
        run_tool("--clean")  # first: what is left holds our ends of the pipes open
        process.communicate()

    def ranks(self, launcher, *arguments):
        """Host, rank and interfaces of each rank."""
        line = ('echo "$(hostname) ${OMPI_COMM_WORLD_RANK:-$RANK} $(echo $(ls /sys/class/net)) '
                '$(sed -n "s/^.*:\\(cpu[a-z,]*\\|\\):.*locus-[0-9]*//p" /proc/self/cgroup)"')
        result = self.tool("--nodes", "2", "--ranks-per-node", "2", "--launcher", launcher, *arguments, "--",
                           "sh", "-c", line)
        self.assertEqual(result.returncode, 0, result.stderr)
        return sorted(result.stdout.splitlines())

    def test_each_rank_is_on_its_node_in_its_cgroup(self):
        for launcher in ("mpirun", "torchrun"):
            with self.subTest(launcher):
                self.assertEqual(self.ranks(launcher),
                                 [f"node{rank // 2} {rank} eth0 lo /rank{rank}" for rank in range(4)])

    def test_without_shares_there_are_no_cgroups(self):
        self.assertEqual(self.ranks("mpirun", "--no-cpu-share"),
                         [f"node{rank // 2} {rank} eth0 lo " for rank in range(4)])

    def test_nodes_know_each_other_by_name_and_nobody_else(self):
        program = ("import os, socket; name = socket.gethostname(); "
                   "other = socket.gethostbyname('node1' if name == 'node0' else 'node0'); "
                   "import subprocess; route = subprocess.run(['ip', 'route'], capture_output=True, text=True).stdout; "
                   "words = [name, *other.split('.')[::3], str('default' in route)]; "
                   # One write: ranks share the pipe, and an unbuffered print would write word by word.
                   "import sys; sys.stdout.write(' '.join(words) + '\\n')")
        result = self.tool("--", "python3", "-c", program)
        self.assertEqual(sorted(result.stdout.splitlines()), ["node0 10 2 False", "node1 10 1 False"], result.stderr)

    def test_exit_code_of_the_first_rank_that_fails_is_passed_on(self):
        for launcher in ("mpirun", "torchrun"):
            with self.subTest(launcher):
                begin = time.monotonic()
                result = self.tool("--launcher", launcher, "--", "sh", "-c",
                                   '[ "${OMPI_COMM_WORLD_RANK:-$RANK}" = 0 ] || exit 7; sleep 60')
                self.assertEqual(result.returncode, 7, result.stderr)
                self.assertLess(time.monotonic() - begin, 40, "the others are ended")

    def test_rate_is_met(self):
        result = self.tool("--nodes", "3", "--rate", "200mbit", "--no-cpu-share", "--check")
        rates = re.findall(r"^node\d -> node\d: ([\d.]+) Mbit/s of 200 asked", result.stdout, re.M)
        self.assertEqual(len(rates), 6, result)
        for rate in map(float, rates):
            self.assertGreater(rate, 180)
            self.assertLess(rate, 220)
        self.assertEqual(result.returncode, 0, result)

    def test_many_ranks_get_the_share_of_one(self):
        for _ in range(3):
            result = self.tool("--nodes", "2", "--ranks-per-node", "2", "--cpu-share", "0.2", "--check")
            others = re.search(r"took [\d.]+ to ([\d.]+) cores meanwhile", result.stdout)
            self.assertTrue(others, result)
            if result.returncode == 0:
                return
        if float(others[1]) > 0.3:
            self.skipTest("other work on this machine: " + others[0])
        self.fail(result.stdout)

    def test_missing_netem_is_said_once_or_ends_it(self):
        result = self.tool("--nodes", "3", "--latency", "5ms", "--no-cpu-share", "--check")
        self.assertEqual(result.returncode, 0, result)
        if "latency is not emulated" in result.stderr:
            self.assertEqual(result.stderr.count("latency is not emulated"), 1)
            strict = run_tool("--latency", "5ms", "--require-latency", "--check")
            self.assertEqual((strict.returncode, strict.stderr.count("\n")), (2, 1), strict)
            self.assertIn("netem", strict.stderr)
        else:
            for round_trip in re.findall(r"round trip (\d+) us", result.stdout):
                self.assertGreater(int(round_trip), 9000)

    def wait_for_ranks(self, process, marker):
        deadline = time.monotonic() + 60
        while len(sleepers(marker)) < 2 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        if process.poll() == CANNOT_BE_MADE_HERE:
            self.skipTest(process.stderr.read().strip())
        self.assertIsNone(process.poll())
        self.assertNotEqual(traces(process.pid), [])

    def assert_nothing_is_left(self, pid, marker):
        self.assertEqual(traces(pid), [])
        self.assertEqual(sleepers(marker), [])

    def test_signals_remove_everything(self):
        for launcher, signum in (("mpirun", signal.SIGINT), ("mpirun", signal.SIGTERM), ("torchrun", signal.SIGINT)):
            with self.subTest(launcher=launcher, signal=signum):
                marker = f"100{os.getpid()}.{signum}"
                process = self.start("--launcher", launcher, "--", "sleep", marker)
                self.wait_for_ranks(process, marker)
                process.send_signal(signum)
                self.assertEqual(process.wait(30), 128 + signum, process.stderr.read())
                self.assert_nothing_is_left(process.pid, marker)

    def test_command_that_ignores_signals_is_killed_at_the_second_one(self):
        marker = f"200{os.getpid()}"
        process = self.start("--", "sh", "-c", f'trap "" INT TERM; sleep {marker}; true')
        self.wait_for_ranks(process, marker)
        begin = time.monotonic()
        process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
        self.assertEqual(process.wait(30), 130)
        self.assertLess(time.monotonic() - begin, 8)
        self.assert_nothing_is_left(process.pid, marker)

    def test_signal_during_the_making_removes_everything(self):
        for delay_s in (0.1, 0.2, 0.3, 0.5):
            process = self.start("--nodes", "20", "--rate", "1gbit", "--no-cpu-share", "--check")
            time.sleep(delay_s)
            process.send_signal(signal.SIGTERM)
            self.assertIn(process.wait(30), (143, -signal.SIGTERM))  # before the handler is set, nothing is made
            self.assertEqual(traces(process.pid), [])

    def test_next_start_removes_what_a_killed_run_has_left(self):
        marker = f"300{os.getpid()}"
        process = self.start("--", "sleep", marker)
        self.wait_for_ranks(process, marker)
        process.kill()
        process.wait()
        self.assertNotEqual(traces(process.pid), [])
        self.assertEqual(len(sleepers(marker)), 2)
        result = run_tool("--clean")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertIn(f"the killed run {process.pid} has left", result.stderr)
        self.assert_nothing_is_left(process.pid, marker)

    def test_clean_leaves_a_living_run_alone(self):
        marker = f"400{os.getpid()}"
        process = self.start("--", "sleep", marker)
        self.wait_for_ranks(process, marker)
        self.assertEqual(run_tool("--clean").stderr, "")
        self.assertEqual(len(sleepers(marker)), 2)

    def test_networks_of_the_machine_stay_as_they_are(self):
        before = subprocess.run(["ip", "-o", "addr"], capture_output=True, text=True).stdout
        result = self.tool("--no-cpu-share", "--", "ip", "-o", "addr")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(subprocess.run(["ip", "-o", "addr"], capture_output=True, text=True).stdout, before)


if __name__ == "__main__":
    unittest.main()
