"""One cgroup with a CPU quota for each rank."""
import math
import pathlib

from cluster_emulation.processes import Unavailable, stop_if_asked


def quota_and_period(share):
    """Microseconds of CPU time in each period. The kernel takes no quota below 1 ms."""
    period = max(5000, math.ceil(1000 / share))
    return round(share * period), period


def cpu_hierarchy(mounts):
    """Root and version of the cgroup hierarchy with the cpu controller; `mounts` as in /proc/self/mounts."""
    rows = [line.split()[1:4] for line in mounts.splitlines()]
    for root, kind, settings in rows:
        if kind == "cgroup" and "cpu" in settings.split(","):
            return pathlib.Path(root), 1
    for root, kind, _ in rows:
        controllers = pathlib.Path(root, "cgroup.controllers")
        if kind == "cgroup2" and controllers.exists() and "cpu" in controllers.read_text().split():
            return pathlib.Path(root), 2
    raise Unavailable("no CPU quotas: no cgroup hierarchy here has the cpu controller (--no-cpu-share does without)")


def cgroup_writes(root, version, name, num_ranks, share):
    """What to write where for one cgroup per rank, in order; the folders are to be made on the way."""
    quota, period = quota_and_period(share)
    limit, burst = ("cpu.max", "cpu.max.burst") if version == 2 else ("cpu.cfs_quota_us", "cpu.cfs_burst_us")
    if version == 2:
        yield root / "cgroup.subtree_control", "+cpu"
        yield root / name / "cgroup.subtree_control", "+cpu"
    for rank in range(num_ranks):
        folder = root / name / f"rank{rank}"
        if version == 1:
            yield folder / "cpu.cfs_period_us", str(period)
        yield folder / limit, f"{quota} {period}" if version == 2 else str(quota)
        # Lets a rank that had to wait for its core keep the time of one period. Without it, ranks that share
        # a core get up to a tenth less than their share. Linux has it since 5.14.
        yield folder / burst, str(quota)


def make_cgroups(writes):
    for path, text in writes:
        stop_if_asked()
        try:
            if "burst" in path.name and not path.exists():
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(path, "r+", encoding="ascii") as file:  # never makes the file: the kernel does
                file.write(text)
        except OSError as error:
            raise Unavailable(f"no CPU quotas: cannot write '{text}' to {path}: {error.strerror} "
                              "(--no-cpu-share does without)") from error
