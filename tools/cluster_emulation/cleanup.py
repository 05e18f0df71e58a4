"""Removes all that a run has on the machine, and tells the runs that were killed."""
import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

from cluster_emulation.processes import say

NETNS_ROOT = pathlib.Path("/run/netns")
STATE_ROOT = pathlib.Path("/run/locus-emulated")
SHARED_ROOT = pathlib.Path("/dev/shm")


def start_time(pid):
    """Ticks from boot to the start of a process, which tell it from a later one with its pid; '' if it is dead."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]


def cgroup_parents():
    """Each once, though its hierarchy may be mounted in several places (below a container's root, say)."""
    found = {}
    for line in pathlib.Path("/proc/self/mounts").read_text().splitlines():
        root, kind = line.split()[1:3]
        if kind in ("cgroup", "cgroup2"):
            for path in pathlib.Path(root).glob("locus-[0-9]*"):
                found.setdefault(identity(path), path)
    return list(found.values())


def traces_of(pid):
    """All that a run with this pid has on the machine: namespaces, cgroups, folders."""
    name = f"locus-{pid}"
    return (sorted(NETNS_ROOT.glob(f"{name}-*")), [path for path in cgroup_parents() if path.name == name],
            [path for path in (SHARED_ROOT / name, STATE_ROOT / str(pid)) if path.exists()])


def dead_runs():
    """The pids of runs that have left something and are not alive."""
    names = [path.name for path in (*NETNS_ROOT.glob("locus-*"), *SHARED_ROOT.glob("locus-*"), *cgroup_parents())]
    found = {int(match[1]) for name in names if (match := re.match(r"locus-(\d+)(-|$)", name))}
    found |= {int(path.name) for path in STATE_ROOT.glob("*") if path.name.isdigit()}
    for pid in sorted(found):
        owner = STATE_ROOT / str(pid) / "owner"
        started = start_time(pid)
        if not started or pid == os.getpid() or owner.exists() and owner.read_text() != started:
            yield pid


def processes_in(namespaces, cgroups):
    wanted = {identity(path) for path in namespaces} - {identity("/proc/self/ns/net"), None}
    for path in pathlib.Path("/proc").glob("[0-9]*"):
        if identity(path / "ns/net") in wanted:
            yield int(path.name)
    for parent in cgroups:
        for path in parent.glob("rank*/cgroup.procs"):
            with contextlib.suppress(OSError):
                yield from map(int, path.read_text().split())


def identity(path):
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def remove_run(pid):
    namespaces, cgroups, folders = traces_of(pid)
    deadline = time.monotonic() + 5
    while (processes := list(processes_in(namespaces, cgroups))) and time.monotonic() < deadline:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        time.sleep(0.02)
    problems = [f"process {process} does not end" for process in processes]
    for path in namespaces:
        result = subprocess.run(["ip", "netns", "del", path.name], capture_output=True, text=True,
                                start_new_session=True)
        if result.returncode:
            problems.append(result.stderr.strip())
    for parent in cgroups:
        for path in (*parent.glob("rank*"), parent):
            while (error := failure_of(path.rmdir)) and time.monotonic() < deadline:
                time.sleep(0.02)  # busy while a killed process is on its way out
            problems += [str(error)] if error else []
    for path in folders:
        # Should the cgroups still be mounted below it, nothing of theirs may be touched.
        error = failure_of(lambda: shutil.rmtree(path)) if not (path / "cgroup").is_mount() else "is mounted"
        problems += [f"{path}: {error}"] if error else []
    for problem in problems:
        say(f"not removed: {problem}")


def failure_of(action):
    try:
        action()
    except OSError as error:
        return error
    return None
