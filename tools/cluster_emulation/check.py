"""Measures the links and the CPU shares of a cluster."""
import itertools
import os
import pathlib
import subprocess
import sys
import time

from cluster_emulation import probes
from cluster_emulation.processes import Unavailable, stop_if_asked

TOLERANCE = 0.1
NOT_AS_ASKED = "  NOT AS ASKED"
SPIN_S = 0.2  # CPU time of the busy loop
NUM_REPEATS = 3


def start_probe(cluster, node, *arguments, rank=None):
    command = [str(cluster.state / "enter"), str(node)]
    if rank is not None:
        command += ["env", "-u", "OMPI_COMM_WORLD_RANK", f"RANK={rank}", str(cluster.state / "rank")]
    command += [sys.executable, "-B", str(pathlib.Path(probes.__file__).resolve()), *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
                            start_new_session=True)


def numbers_of(process):
    """The numbers that a probe prints."""
    output = process.communicate()[0]
    stop_if_asked()
    if process.returncode:
        raise Unavailable(f"a probe of --check failed with exit code {process.returncode}")
    return [float(word) for word in output.split()]


def check_links(cluster):
    """Prints rate and round trip of each pair of nodes; whether they are as asked."""
    options, good = cluster.options, True
    asked = options.rate and options.rate / 1e6
    warm_up_s = 0.2 + (3 * 8 * cluster.burst_bytes() / options.rate if asked else 0)
    servers = [start_probe(cluster, node, "serve", cluster.address(node)) for node in range(options.nodes)]
    for server in servers:
        server.stdout.readline()
    for source, target in itertools.permutations(range(options.nodes), 2):
        for _ in range(NUM_REPEATS):
            got, round_trip = numbers_of(start_probe(cluster, target, "measure", cluster.address(source), warm_up_s))
            wrong = asked and abs(got / asked - 1) > TOLERANCE
            wrong = wrong or cluster.has_netem and round_trip < 2 * options.latency * (1 - TOLERANCE)
            if not wrong:  # else other work may have held up the probe
                break
        print(f"node{source} -> node{target}: {got:.1f} Mbit/s"
              + (f" of {asked:g} asked ({got / asked:.1%})" if asked else "")
              + f", round trip {round_trip:.0f} us" + (NOT_AS_ASKED if wrong else ""), flush=True)
        good = good and not wrong
    for server in servers:
        server.kill()
        server.communicate()
    return good


def busy_s():
    """CPU seconds of the whole machine since its start."""
    ticks = [int(word) for word in pathlib.Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf("SC_CLK_TCK")  # less idle and waiting for the disk


def spin_in(cluster, num_ranks, num_rounds):
    """Wall and CPU seconds of a busy loop in each of the first ranks, and the cores that others took meanwhile."""
    options = cluster.options
    at = time.monotonic() + 0.5 + 0.1 / options.share + 0.05 * num_ranks  # the start of Python takes its share too
    started = [start_probe(cluster, rank // options.ranks_per_node, "spin", num_rounds, at, rank=rank)
               for rank in range(num_ranks)]
    time.sleep(max(0.0, at - time.monotonic()))
    begin, busy_before_s = time.monotonic(), busy_s()
    times = [numbers_of(process) for process in started]
    others = (busy_s() - busy_before_s - sum(cpu_s for _, cpu_s in times)) / (time.monotonic() - begin)
    return times, others


def check_shares(cluster):
    """Prints how long a busy loop takes in one rank and in all at once; whether all have their shares.

    The speed of a core changes too, on virtual machines by tenths. So what counts are the cores that a rank
    gets, CPU time by wall time; the ratio of the wall times is printed beside it.
    """
    options = cluster.options
    begin = time.process_time()
    probes.spin(5_000_000)
    num_rounds = round(5_000_000 * SPIN_S / (time.process_time() - begin))
    alone, together, others = [], [], []
    for _ in range(NUM_REPEATS):
        for num_ranks, times in ((1, alone), (options.num_ranks, together)):
            found, others_then = spin_in(cluster, num_ranks, num_rounds)
            times += found
            others.append(others_then)
    asked = min(1.0, options.share)
    shares = [[cpu_s / wall_s for wall_s, cpu_s in times] for times in (alone, together)]
    wrong = any(abs(share / asked - 1) > TOLERANCE for share in shares[0] + shares[1])
    seconds = [sum(wall_s for wall_s, _ in times) / len(times) for times in (alone, together)]
    at_one_speed = (sum(shares[0]) / len(shares[0])) / (sum(shares[1]) / len(shares[1]))
    print(f"CPU: {asked:g} cores asked for each rank; one rank gets {min(shares[0]):.3f} to {max(shares[0]):.3f}, "
          f"{options.num_ranks} ranks get {min(shares[1]):.3f} to {max(shares[1]):.3f}"
          + (NOT_AS_ASKED if wrong else ""))
    print(f"CPU: other processes of this machine took {max(0.0, min(others)):.2f} to {max(others):.2f} cores meanwhile")
    print(f"CPU: a busy loop takes {seconds[0]:.2f} s in one rank, {seconds[1]:.2f} s in {options.num_ranks}: "
          f"ratio {seconds[1] / seconds[0]:.3f}, at one speed of the cores {at_one_speed:.3f}", flush=True)
    return not wrong
