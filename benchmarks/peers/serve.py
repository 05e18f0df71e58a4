"""The other side of bench.py for workers in Python: what workers/serve.h is for ours."""
from __future__ import annotations

import json
import pathlib
import resource
import sys
import time
from collections.abc import Callable

Run = Callable[[], dict]


def status_bytes(key: str) -> int:
    """A line of /proc/self/status. ru_maxrss would do, but a child inherits its parent's."""
    for line in pathlib.Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def timed(work: Callable[[], object]) -> tuple[float, object]:
    begin = time.perf_counter()
    result = work()
    return time.perf_counter() - begin, result


def serve(make: Callable[..., tuple[dict, Run]]) -> None:
    """make(**settings) gives facts and the function that does one repetition."""
    out, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no reply

    def reply(line: dict) -> None:
        print(json.dumps(line), file=out, flush=True)

    try:
        facts, run = make(**dict(argument.split("=", 1) for argument in sys.argv[1:]))
    except ModuleNotFoundError as error:
        return reply({"missing": error.name})
    reply({"ready": 1, **facts})
    for command in sys.stdin:
        if command.strip() != "run":
            raise SystemExit(f"command {command!r} is not known; only run")
        before = cpu_seconds()
        report = run()
        reply({**report, "cpu_seconds": cpu_seconds() - before,
               "peak_rss_bytes": status_bytes("VmHWM"), "private_bytes": status_bytes("RssAnon")})
