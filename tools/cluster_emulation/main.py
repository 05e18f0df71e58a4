"""Options of tools/emulated_cluster, what it needs, and the order of its work."""
import argparse
import contextlib
import math
import os
import pathlib
import re
import shutil
import signal
import sys

from cluster_emulation import processes
from cluster_emulation.check import check_links, check_shares
from cluster_emulation.cleanup import dead_runs, remove_run
from cluster_emulation.cluster import Cluster, print_plan
from cluster_emulation.processes import Stopped, Unavailable, say

RATE_UNITS = {"bit": 1, "kbit": 10**3, "mbit": 10**6, "gbit": 10**9, "tbit": 10**12}
TIME_UNITS = {"us": 1, "ms": 1000, "s": 1000000}


def quantity(units, what, low, high):
    """A parser of a number with one of these units; the value is in the unit with the factor 1."""
    def parse_quantity(text):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([a-z]+)", text.lower())
        if not match or match[2] not in units or not low <= float(match[1]) * units[match[2]] <= high:
            least = next(iter(units))
            raise argparse.ArgumentTypeError(f"'{text}' is no {what}: a number and one of {', '.join(units)}, "
                                             f"from {low}{least} to {high}{least}")
        return round(float(match[1]) * units[match[2]])
    return parse_quantity


def number_between(kind, low, high):
    def parse_number(text):
        with contextlib.suppress(ValueError):
            if low <= kind(text) <= high:
                return kind(text)
        raise argparse.ArgumentTypeError(f"'{text}' is not a number from {low} to {high}")
    return parse_number


class Parser(argparse.ArgumentParser):
    def error(self, message):
        say(message)
        sys.exit(2)


def parse(arguments):
    parser = Parser(prog="emulated_cluster", usage="%(prog)s [options] -- COMMAND...", allow_abbrev=False,
                    description="A cluster on one machine: nodes are network "
                    "namespaces with shaped links, ranks have fixed CPU shares. See docs/emulated_cluster.md.")
    parser.add_argument("--nodes", type=number_between(int, 1, 250), default=2, metavar="N")
    parser.add_argument("--ranks-per-node", type=number_between(int, 1, 1000), default=1, metavar="N")
    parser.add_argument("--rate", type=quantity(RATE_UNITS, "rate", 10**4, 10**12), metavar="1gbit",
                        help="of each node's link, both ways (default: as fast as the machine)")
    parser.add_argument("--latency", type=quantity(TIME_UNITS, "latency", 1, 10**7), default=0, metavar="50us",
                        help="one way from node to node, added to the machine's own")
    parser.add_argument("--require-latency", action="store_true",
                        help="end with 2 where the kernel cannot emulate --latency")
    shares = parser.add_mutually_exclusive_group()
    shares.add_argument("--cpu-share", type=number_between(float, 0.01, 1024), metavar="0.25",
                        help="cores for each rank (default: 0.9 by the number of ranks for each core)")
    shares.add_argument("--no-cpu-share", action="store_true", help="let the ranks compete for the cores")
    parser.add_argument("--launcher", choices=("mpirun", "torchrun"), default="mpirun")
    parser.add_argument("--torchrun", metavar="PATH", help="default: the one in PATH, else in .venv")
    parser.add_argument("--check", action="store_true", help="measure rates, round trips and CPU shares first")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and run none")
    parser.add_argument("--clean", action="store_true", help="only remove what killed runs have left")
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = parser.parse_args(arguments[:end])
    options.command = arguments[end + 1:]
    if not (options.command or options.check or options.clean):
        parser.error("no command: give it after --")
    options.num_ranks = options.nodes * options.ranks_per_node
    options.cores = len(os.sched_getaffinity(0))
    options.share = None
    if not options.no_cpu_share:
        ranks_per_core = math.ceil(options.num_ranks / options.cores)
        options.share = options.cpu_share or max(0.01, math.floor(90 / ranks_per_core) / 100)
    return options


def require_machine(options):
    if os.geteuid() != 0:
        raise Unavailable("root is missing: only root can make network namespaces")
    programs = {"ip": "iproute2", "tc": "iproute2", "nsenter": "util-linux", "unshare": "util-linux"}
    if options.command and options.launcher == "mpirun":
        programs["mpirun"] = "openmpi-bin"
    for program, package in programs.items():
        if not shutil.which(program):
            raise Unavailable(f"{program} is missing: the package {package} has it")
    if options.share and options.share * options.num_ranks > options.cores + 1e-9:
        raise Unavailable(f"{options.num_ranks} ranks with {options.share:g} cores each need more than the "
                          f"{options.cores} cores of this machine")
    if options.command and options.launcher == "torchrun":
        in_project = pathlib.Path(__file__).resolve().parents[2] / ".venv/bin/torchrun"
        options.torchrun = shutil.which(options.torchrun or "torchrun") or (
            None if options.torchrun else shutil.which(in_project))
        if not options.torchrun:
            raise Unavailable("torchrun is missing: neither in PATH nor in .venv/bin; --torchrun names it")


def work(options):
    for pid in dead_runs():
        say(f"removing what the killed run {pid} has left")
        remove_run(pid)
    if options.clean:
        return 0
    cluster = Cluster(options, os.getpid())
    try:
        cluster.make()
        if options.check:
            checks = [check_links(cluster), not options.share or check_shares(cluster)]
            if not all(checks):
                say("the cluster is not as asked (see above)")
                return 1
        return cluster.run() if options.command else 0
    except Stopped:
        return 128 + processes.stop_signal
    finally:
        remove_run(os.getpid())


def main(arguments):
    options = parse(arguments)
    if options.dry_run:
        print_plan(Cluster(options, os.getpid()))
        return 0
    os.environ["PATH"] = os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, processes.on_signal)
    try:
        require_machine(options)
        return work(options)
    except Unavailable as error:
        say(str(error))
        return error.exit_code
