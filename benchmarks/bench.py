"""Workers that take turns, what their times say, and the rows that are kept of it.

A worker is a process that is set up once, prints one JSON line, and then answers each line `run`
with one measured repetition as a JSON line (workers/serve.h, peers/serve.py). All workers of a
comparison run in one loop, one after the other, in an order that rotates: whatever else the machine
does meets all of them alike. A ratio is the median over the rounds of ours / theirs in that round.
"""
from __future__ import annotations

import dataclasses
import datetime
import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
THREADS = 2

# Large blocks come from the heap and stay there: what cli/allocator.cpp sets for Locus itself.
TUNED_MALLOC = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
                "MALLOC_TOP_PAD_": str(64 << 20)}
MALLOC_TEXT = {"default": "default", "locus": "as cli/allocator.cpp sets it",
               "tuned": " ".join(f"{key}={value}" for key, value in TUNED_MALLOC.items())}


class Missing(Exception):
    """A peer's package is not installed."""


@dataclasses.dataclass(frozen=True)
class Worker:
    """How to start one: `malloc` is a key of MALLOC_TEXT."""
    name: str
    command: list[str]
    malloc: str = "default"

    def environment(self) -> dict[str, str]:
        clean = {key: value for key, value in os.environ.items()
                 if not key.startswith(("MALLOC_", "GLIBC_TUNABLES", "OMP_", "MKL_"))}
        # Passive: an idle worker must not spin on the cores of the one that is measured.
        return clean | {"OMP_NUM_THREADS": str(THREADS), "OMP_WAIT_POLICY": "passive",
                        "HF_HUB_OFFLINE": "1"} | (TUNED_MALLOC if self.malloc == "tuned" else {})


class Process:
    """A started worker. The first reply is awaited by ready(), so that several start at once."""

    def __init__(self, worker: Worker):
        self.worker = worker
        self.errors = tempfile.TemporaryFile(mode="w+")
        self.process = subprocess.Popen(worker.command, cwd=ROOT, env=worker.environment(),
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=self.errors, text=True)

    def _reply(self) -> dict:
        line = self.process.stdout.readline()
        if not line:
            self.process.wait()
            self.errors.seek(0)
            raise RuntimeError(f"{self.worker.name} ended with {self.process.returncode}: "
                               f"{' '.join(self.worker.command)}\n{self.errors.read()[-2000:]}")
        return json.loads(line)

    def ready(self) -> dict:
        facts = self._reply()
        if "missing" in facts:
            raise Missing(facts["missing"])
        return facts

    def run(self) -> dict:
        self.process.stdin.write("run\n")
        self.process.stdin.flush()
        return self._reply()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.stdout.close()
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.errors.close()


@dataclasses.dataclass
class Measured:
    """Facts and repetitions of one worker, after warm-up, in the order of the rounds."""
    worker: Worker
    facts: dict
    replies: list[dict]

    def series(self, key: str = "seconds") -> list[float]:
        return [reply[key] for reply in self.replies]

    def rate(self, amount: float, key: str = "seconds") -> list[float]:
        return [amount / seconds for seconds in self.series(key)]


def start(workers: list[Worker]) -> tuple[list[Process], dict[str, dict]]:
    """Those that can run, and their facts by name; the others are skipped by name."""
    started = [Process(worker) for worker in workers]
    alive, facts = [], {}
    try:
        for process in started:
            try:
                facts[process.worker.name] = process.ready()
                alive.append(process)
            except Missing as missing:
                process.close()
                note(f"skipped: {process.worker.name} (package {missing} is not installed)")
    except BaseException:
        for process in started:
            process.process.kill()
            process.close()
        raise
    return alive, facts


def interleave(workers: list[Worker], repetitions: int, warmup: int) -> dict[str, Measured]:
    processes, facts = start(workers)
    measured = {p.worker.name: Measured(p.worker, facts[p.worker.name], []) for p in processes}
    try:
        for turn in range(warmup + repetitions):
            shift = turn % max(len(processes), 1)
            for process in processes[shift:] + processes[:shift]:
                reply = process.run()
                if turn >= warmup:
                    measured[process.worker.name].replies.append(reply)
    finally:
        for process in processes:
            process.close()
    return measured


def quartiles(values: list[float]) -> list[float]:
    if len(values) < 2:
        return [values[0], values[0]]
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return [first, third]


def meets(ratio: float, goal: dict | None) -> bool | None:
    """goal: {"at_least": x}, {"at_most": x}, or None."""
    if goal is None:
        return None
    (kind, bound), = goal.items()
    if kind not in ("at_least", "at_most"):
        raise ValueError(f"a goal is at_least or at_most, not {kind}")
    return ratio >= bound if kind == "at_least" else ratio <= bound


def significant(value: float, digits: int = 5) -> float:
    return float(f"{value:.{digits}g}")


class Bench:
    """What a theme asks for: workers, measurements, rows."""

    def __init__(self, theme: str, build: pathlib.Path, python: str, repetitions: int = 7,
                 warmup: int = 2, fresh: bool = False, baseline: pathlib.Path | None = None,
                 parts: list[str] | None = None):
        """`fresh`, `baseline`, `parts`: of the theme `cluster`."""
        self.theme, self.build, self.python = theme, build, python
        self.repetitions, self.warmup = repetitions, warmup
        self.fresh, self.baseline, self.parts = fresh, baseline, parts
        self.scratch = ROOT / "runs" / "bench" / theme
        self.scratch.mkdir(parents=True, exist_ok=True)

    @property
    def program(self) -> str:
        return str(self.build / "locus")

    def ours(self, name: str, worker: str, **settings) -> Worker:
        return Worker(name, [self._built("locus_bench"), worker, *_pairs(settings)], "locus")

    def ranks(self, name: str, launcher: list[str], worker: str, **settings) -> Worker:
        """Several processes with one thread each; the launcher connects us with the first."""
        program = self._built("locus_bench_ranks")
        return Worker(name, ["env", "OMP_NUM_THREADS=1", *launcher, program, worker, *_pairs(settings)],
                      "locus")

    def _built(self, name: str) -> str:
        program = self.build / name
        if not program.exists():
            raise SystemExit(f"{program} is not there: `make bench` builds it "
                             "(cmake -DLOCUS_BENCHMARKS=ON, target locus_bench)")
        return str(program)

    def peer(self, name: str, module: str, malloc: str = "default", **settings) -> Worker:
        command = [self.python, "-m", f"benchmarks.peers.{module}", *_pairs(settings)]
        return Worker(name, command, malloc)

    def measure(self, workers: list[Worker], repetitions: int | None = None,
                warmup: int | None = None) -> dict[str, Measured]:
        note(f"{self.theme}: {', '.join(worker.name for worker in workers)}")
        return interleave(workers, repetitions or self.repetitions,
                          self.warmup if warmup is None else warmup)

    def row(self, what: str, values: list[float], unit: str, against: str = "",
            base: list[float] | float | None = None, goal: dict | None = None,
            by: list[Measured] = (), **more) -> dict:
        """`base`: a series of the same rounds, or a fixed bound. `by`: where versions are read."""
        ratios = None
        if base is not None:
            bases = base if isinstance(base, list) else [base] * len(values)
            ratios = [value / other for value, other in zip(values, bases, strict=True)]
        ratio = significant(statistics.median(ratios)) if ratios else None
        row = {
            "what": what, "value": significant(statistics.median(values)), "unit": unit,
            "against": against, "ratio": ratio, "goal": goal,
            "met": meets(ratio, goal) if ratio is not None else None,
            "command": f"make bench THEME={self.theme}",
            "date": datetime.date.today().isoformat(), "machine": machine(),
            "quartiles": [significant(q) for q in quartiles(ratios or values)],
            "repetitions": len(values),
            "versions": {key: one.facts[key] for one in by for key in sorted(one.facts)
                         if isinstance(one.facts[key], str)},
            "malloc": {one.worker.name: MALLOC_TEXT[one.worker.malloc] for one in by}, **more}
        note("  " + line_of(row))
        return row


def _pairs(settings: dict) -> list[str]:
    # Double underscores stand for the dots of configuration keys.
    return [f"{key.replace('__', '.')}={str(value).lower() if isinstance(value, bool) else value}"
            for key, value in settings.items()]


def note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def machine() -> str:
    info = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = next((line.split(":", 1)[1].strip() for line in info.splitlines()
                  if line.startswith("model name")), platform.machine())
    extras = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if f" {name}" in info]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{model}, {len(os.sched_getaffinity(0))} cores, {memory:.0f} GiB, {' '.join(extras)}"


def write_rows(theme: str, rows: list[dict], folder: pathlib.Path = RESULTS, are_all: bool = False) -> pathlib.Path:
    """The whole file or none of it: a theme that was interrupted leaves the old one. What other
    machines said stays, behind the new rows, unless those `are_all`."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{theme}.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    here = {row["machine"] for row in rows}
    rows = rows + [row for row in before if row["machine"] not in here and not are_all]
    part = path.with_suffix(".json.part")
    part.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    os.replace(part, path)
    return path


def read_rows(folder: pathlib.Path = RESULTS) -> dict[str, list[dict]]:
    return {path.stem: json.loads(path.read_text(encoding="utf-8"))
            for path in sorted(folder.glob("*.json"))}


def goal_text(goal: dict | None) -> str:
    return "" if goal is None else " ".join(
        f"{'>=' if kind == 'at_least' else '<='} {bound:g}" for kind, bound in goal.items())


def short(ratio: float) -> str:
    return f"{ratio:.3f}" if ratio >= 0.01 else f"{ratio:.2g}"


def cells(row: dict) -> list[str]:
    state = {True: "met", False: "MISSED", None: ""}[row["met"]]
    ratio, spread = "", ""
    if row["ratio"] is not None:
        ratio = short(row["ratio"])
        spread = "..".join(map(short, row["quartiles"]))
    return [state, row["what"], f"{row['value']:.4g} {row['unit']}", ratio, spread,
            goal_text(row["goal"]), row["against"]]


def line_of(row: dict) -> str:
    return "  ".join(cell for cell in cells(row)[1:] + cells(row)[:1] if cell)


def table(rows_by_theme: dict[str, list[dict]]) -> str:
    """All rows, met and missed, by theme and machine, aligned; last a line with the count of
    both."""
    head = ["", "what", "value", "ratio", "quartiles", "goal", "against"]
    parts: dict[tuple[str, str], list[list[str]]] = {}
    for theme, rows in rows_by_theme.items():
        for row in rows:
            parts.setdefault((theme, row["machine"]), []).append(cells(row))
    lines = [head] + [line for part in parts.values() for line in part]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]

    def text(line: list[str]) -> str:
        return "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip()

    out = [text(head)]
    for (theme, where), part in parts.items():
        out += [f"-- {theme}, {where}", *map(text, part)]
    met = [row["met"] for rows in rows_by_theme.values() for row in rows]
    return "\n".join([*out, f"{met.count(True)} goals met, {met.count(False)} missed"])
