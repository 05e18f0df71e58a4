"""Names, files and commands of one cluster."""
import os
import pathlib
import random
import shlex
import subprocess
import time

from cluster_emulation import cpu_shares
from cluster_emulation.cleanup import NETNS_ROOT, SHARED_ROOT, STATE_ROOT, start_time
from cluster_emulation.processes import GRACE_S, Unavailable, call, end, say, stop_if_asked

# Enters node $1. /sys is mounted anew because it shows the interfaces of the namespace that mounted it.
ENTER = """#!/bin/sh
node=$1
shift
exec nsenter --net={netns}/{name}-n"$node" unshare --mount --uts {state}/inside "$node" "$@"
"""
INSIDE = """#!/bin/sh
set -e
node=$1
shift
mount --bind {state}/hosts /etc/hosts
mount --rbind /sys/fs/cgroup {state}/cgroup
mount -t sysfs sysfs /sys
mount --rbind {state}/cgroup /sys/fs/cgroup
echo node"$node" > /proc/sys/kernel/hostname
exec "$@"
"""
# Takes the place of ssh: Open MPI calls it with a host and a line for that host's shell.
AGENT = """#!/bin/sh
host=$1
shift
exec {state}/enter "${{host#node}}" sh -c "$*"
"""
# Runs one rank. torchrun turns every failure into 1, so there the rank's own code is kept in a file.
RANK = """#!/bin/sh
rank=${{OMPI_COMM_WORLD_RANK:-${{RANK:?neither mpirun nor torchrun has set the number of this rank}}}}
{share}
{run}
"""
RUN_IN_PLACE = 'exec "$@"'
RUN_AND_KEEP_CODE = """trap : INT TERM
"$@"
code=$?
[ $code = 0 ] || echo $code > {state}/exit-"$rank"
exit $code"""


class Cluster:
    """Names, files and commands of one cluster."""

    def __init__(self, options, pid):
        self.options = options
        self.name = f"locus-{pid}"
        self.state = STATE_ROOT / str(pid)
        self.shared = SHARED_ROOT / self.name
        self.subnet = f"10.{random.randint(1, 254)}.0"
        self.cgroups = None  # their parent folder
        self.has_netem = options.latency > 0

    def address(self, node):
        return f"{self.subnet}.{node + 1}"

    def switch_commands(self):
        switch = f"{self.name}-sw"
        yield ["ip", "netns", "add", switch]
        yield ["ip", "-n", switch, "link", "set", "lo", "up"]
        yield ["ip", "-n", switch, "link", "add", "br0", "type", "bridge", "stp_state", "0"]
        yield ["ip", "-n", switch, "link", "set", "br0", "up"]

    def node_commands(self, node):
        switch, namespace, port = f"{self.name}-sw", f"{self.name}-n{node}", f"port{node}"
        yield ["ip", "netns", "add", namespace]
        yield ["ip", "-n", namespace, "link", "set", "lo", "up"]
        yield ["ip", "-n", switch, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", namespace]
        yield ["ip", "-n", switch, "link", "set", port, "master", "br0", "up"]
        yield ["ip", "-n", namespace, "addr", "add", f"{self.address(node)}/24", "dev", "eth0"]
        yield ["ip", "-n", namespace, "link", "set", "eth0", "up"]
        at_port = ["root", "handle", "1:"]
        if self.has_netem:
            yield ["tc", "-n", switch, "qdisc", "add", "dev", port, *at_port, "netem", "delay",
                   f"{self.options.latency}us", "limit", "1000000"]
            at_port = ["parent", "1:1", "handle", "10:"]
        if self.options.rate:
            yield ["tc", "-n", namespace, "qdisc", "add", "dev", "eth0", "root", *self.bucket()]
            yield ["tc", "-n", switch, "qdisc", "add", "dev", port, *at_port, *self.bucket()]

    def burst_bytes(self):
        return max(self.options.rate // 8000, 32768)  # 1 ms: large segments pass whole

    def bucket(self):
        queue_bytes = max(self.options.rate // 400, 32768)  # 20 ms: holds what several nodes send to one
        return ["tbf", "rate", f"{self.options.rate}bit", "burst", f"{self.burst_bytes()}b",
                "limit", f"{self.burst_bytes() + queue_bytes}b"]

    def files(self):
        words = {"netns": NETNS_ROOT, "name": self.name, "state": self.state}
        nodes = "".join(f"{self.address(k)} node{k}\n" for k in range(self.options.nodes))
        run = RUN_IN_PLACE if self.options.launcher == "mpirun" else RUN_AND_KEEP_CODE.format(**words)
        share = f'echo $$ > {self.cgroups}/rank"$rank"/cgroup.procs || exit 1' if self.cgroups else ""
        return {"hosts": "127.0.0.1 localhost\n" + nodes, "enter": ENTER.format(**words),
                "inside": INSIDE.format(**words), "agent": AGENT.format(**words),
                "rank": RANK.format(share=share, run=run)}

    def launches(self):
        """The commands that start all ranks, each to be run by itself."""
        options, enter, rank = self.options, str(self.state / "enter"), str(self.state / "rank")
        if options.launcher == "torchrun":
            return [[enter, str(node), options.torchrun or "torchrun", "--no-python", "--nnodes", str(options.nodes),
                     "--nproc-per-node", str(options.ranks_per_node), "--node-rank", str(node),
                     "--master-addr", self.address(0), "--master-port", "29500", rank, *options.command]
                    for node in range(options.nodes)]
        network = f"{self.subnet}.0/24"
        settings = {
            "plm_rsh_agent": self.state / "agent", "plm_rsh_no_tree_spawn": 1, "oob_tcp_if_include": network,
            "pml": "ob1", "btl": "tcp,self,vader", "btl_tcp_if_include": network, "mpi_yield_when_idle": 1,
            "orte_tmpdir_base": self.shared, "btl_vader_backing_directory": self.shared,
            "odls_base_sigkill_timeout": round(GRACE_S) - 2}
        hosts = ",".join(f"node{k}:{options.ranks_per_node}" for k in range(options.nodes))
        # Without --bind-to none the ranks of all nodes would share the first cores.
        return [[enter, "0", "mpirun", "--allow-run-as-root", "-n", str(options.num_ranks), "--host", hosts,
                 "--map-by", "slot", "--bind-to", "none",
                 *(word for key, value in settings.items() for word in ("--mca", key, str(value))),
                 rank, *options.command]]

    def make(self):
        options = self.options
        try:
            self.state.mkdir(parents=True)
            (self.state / "owner").write_text(start_time(os.getpid()))  # first: what follows is ours
            self.shared.mkdir()
            (self.state / "cgroup").mkdir()
        except OSError as error:
            raise Unavailable(f"cannot write {error.filename}: {error.strerror}") from error
        if options.share:
            root, version = cpu_shares.cpu_hierarchy(pathlib.Path("/proc/self/mounts").read_text())
            writes = cpu_shares.cgroup_writes(root, version, self.name, options.num_ranks, options.share)
            cpu_shares.make_cgroups(writes)
            self.cgroups = root / self.name
        for name, text in self.files().items():
            (self.state / name).write_text(text)
            (self.state / name).chmod(0o755)
        for command in self.switch_commands():
            call(command)
        if self.has_netem:
            self.try_netem()
        for node in range(options.nodes):
            for command in self.node_commands(node):
                call(command)
        call([str(self.state / "enter"), "0", "true"])

    def try_netem(self):
        try:
            call(["tc", "-n", f"{self.name}-sw", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1us"])
        except Unavailable:
            if self.options.require_latency:
                error = Unavailable("latency cannot be emulated: this kernel has no netem (sch_netem)")
                error.exit_code = 2
                raise error from None
            say("latency is not emulated: this kernel has no netem (sch_netem)")
            self.has_netem = False

    def run(self):
        """The exit code of the command."""
        processes = []
        try:
            for command in self.launches():
                stop_if_asked()
                # A session of its own: Ctrl-C reaches it through us only.
                processes.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True))
            while not any(codes := [process.poll() for process in processes]) and None in codes:
                stop_if_asked()
                time.sleep(0.02)
        finally:
            end(processes)
        kept = sorted(self.state.glob("exit-*"), key=lambda path: path.stat().st_mtime_ns)
        code = int(kept[0].read_text()) if kept else next((code for code in codes if code), 0)
        return 128 - code if code < 0 else code


def print_plan(cluster):
    options = cluster.options
    if options.share:
        quota, period = cpu_shares.quota_and_period(options.share)
        print(f"# {options.num_ranks} cgroups with {quota} us of CPU time in each {period} us")
    for command in cluster.switch_commands():
        print(shlex.join(command))
    for node in range(options.nodes):
        for command in cluster.node_commands(node):
            print(shlex.join(command))
    for command in cluster.launches() if options.command else []:
        print(shlex.join(command))
