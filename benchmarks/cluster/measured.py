"""Measurements that are kept until the program changes, so that a benchmark that was stopped goes on.

Short trainings are what is measured: one run of `locus train`, and what its metrics say of each step
after the warm-up.
"""
from __future__ import annotations

import contextlib
import dataclasses
import datetime
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable

from benchmarks import bench as harness
from benchmarks.bench import ROOT, Bench, note

FOLDER = ROOT / "runs" / "bench-cluster"
CONFIG = ROOT / "benchmarks" / "configs" / "cluster.toml"
WARMUP_STEPS = 2
DEADLINE_S = 900
GRACE_S = 30
# What tools/emulated_cluster says where it cannot make one.
UNAVAILABLE = 77


class Skipped(Exception):
    """This machine or this start lacks what a part needs."""


@dataclasses.dataclass(frozen=True)
class Steps:
    """Of one training, a value for each step after the warm-up."""
    seconds: list[float]
    reduce_s: list[float]  # waited for sums of gradients; 0 in programs older than these
    exchange: dict[str, list[float]]  # of all layers together; empty: no exchange
    chosen: str = ""  # exchange and parts
    parameters: int = 0
    peak_rss_bytes: int = 0  # of the rank that needed most; 0: a program that does not tell it

    @property
    def step_s(self) -> float:
        return statistics.median(self.seconds)

    @property
    def waited(self) -> list[float]:
        """Seconds that the exchange holds a step up: the mean of the ranks."""
        return [sum(both) for both in zip(self.exchange["plan_s"], self.exchange["exposed_s"])]

    @property
    def waited_s(self) -> float:
        return statistics.median(self.waited)

    @property
    def waited_share(self) -> float:
        return statistics.median(w / s for w, s in zip(self.waited, self.seconds))


EXCHANGE_KEYS = ("inter_bytes", "least_inter_bytes", "inter_messages", "flight_s", "exposed_s", "plan_s")


def read_steps(metrics: pathlib.Path, warmup: int = WARMUP_STEPS) -> Steps:
    lines = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    trained = [line for line in lines if line["kind"] == "train" and line["step"] > warmup]
    moved = [line for line in lines if line["kind"] == "exchange" and line["step"] > warmup]
    steps = [line["step"] for line in trained]
    exchange = {key: [sum(line[key] for line in moved if line["step"] == step) for step in steps]
                for key in EXCHANGE_KEYS if moved}
    chosen = f"{moved[0]['type']}, {parts_text(moved[0]['chunks'])}" if moved else ""
    if not trained:
        raise RuntimeError(f"{metrics} has no step after the first {warmup}")
    parameters = next(line["parameters"] for line in lines if line["kind"] == "run")
    peak = next((line["peak_rss_bytes"] for line in lines if "peak_rss_bytes" in line), 0)
    return Steps([line["step_time_s"] for line in trained], [line.get("time_reduce_s", 0.0) for line in trained],
                 exchange, chosen, parameters, peak)


def parts_text(chunks: int) -> str:
    return "1 part" if chunks == 1 else f"{chunks} parts"


class Measurements:
    """Of one part of the theme. `fresh` forgets those of earlier starts."""

    def __init__(self, bench: Bench, part: str, folder: pathlib.Path = FOLDER):
        self.bench, self.part, self.folder = bench, part, folder
        self.dates: set[str] = set()
        self.folder.mkdir(parents=True, exist_ok=True)
        if bench.fresh:
            for path in self.folder.glob(f"{part}.*.json"):
                path.unlink()

    def once(self, name: str, key: dict, measure: Callable[[], dict]) -> dict:
        """What `measure` gives, or gave when all of `key` was as now."""
        path = self.folder / f"{self.part}.{name}.json"
        key = key | {"machine": harness.machine(), "program": digest(self.bench.build)}
        record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
        if record is None or record["key"] != key:
            record = {"key": key, "date": datetime.date.today().isoformat(), "found": measure()}
            partial = path.with_suffix(".partial")
            partial.write_text(json.dumps(record) + "\n", encoding="utf-8")
            os.replace(partial, path)
        else:
            note(f"  {name}: kept, of {record['date']}")
        self.dates.add(record["date"])
        return record["found"]

    @contextlib.contextmanager
    def searching(self, prefix: str):
        """Forgets the tries of a search that fails: another start would find the same."""
        try:
            yield
        except RuntimeError:
            for path in self.folder.glob(f"{self.part}.{prefix}*.json"):
                path.unlink()
            raise

    def train(self, name: str, settings: dict, launcher: list[str] = (), program: str | None = None,
              config: pathlib.Path = CONFIG, warmup: int = WARMUP_STEPS) -> Steps:
        """One run of train.max_steps. `settings`: of the configuration, over those of the file."""
        program = program or self.bench.program
        command = [*launcher, *train_command(program, config, settings)]
        key = {"command": command, "config": config.read_text(encoding="utf-8"),
               "by": digest(pathlib.Path(program).parent)} | ({"warmup": warmup} if warmup != WARMUP_STEPS else {})
        output = self.bench.scratch / "run"

        def measure() -> dict:
            shutil.rmtree(output, ignore_errors=True)
            run([*command, "--set", f"train.output_dir={json.dumps(str(output))}"])
            steps = read_steps(output / "metrics.jsonl", warmup)
            shutil.rmtree(output)
            return dataclasses.asdict(steps)

        steps = Steps(**self.once(name, key, measure))
        waited = f", {steps.waited_share:.1%} waited for rows ({steps.chosen})" if steps.exchange else ""
        note(f"  {name}: {steps.step_s:.3f} s a step{waited}")
        return steps

    def row(self, what: str, values: list[float], unit: str, *arguments, **more) -> dict:
        return self.bench.row(what, values, unit, *arguments, part=self.part, date=max(self.dates), **more)


def run(command: list[str]) -> str:
    """The standard output of a command that must succeed. However it ends, it leaves no process."""
    environment = {key: value for key, value in os.environ.items()
                   if not key.startswith(("MALLOC_", "GLIBC_TUNABLES", "OMP_", "MKL_"))}
    process = subprocess.Popen(command, cwd=ROOT, env=environment | {"OMP_WAIT_POLICY": "passive"}, text=True,
                               stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                               start_new_session=True)
    try:
        out, errors = process.communicate(timeout=DEADLINE_S)
    except BaseException as error:
        stop(process)
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        raise RuntimeError(f"{' '.join(command)} has not ended within {DEADLINE_S} s") from error
    if process.returncode == UNAVAILABLE:
        raise Skipped(errors.strip().splitlines()[-1])
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{errors[-2000:]}")
    return out


def stop(process: subprocess.Popen) -> None:
    """And all that it has started. Emulated clusters need their time to be removed."""
    for wanted in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, wanted)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=GRACE_S)
            return


def digest(build: pathlib.Path) -> str:
    """Of the programs in a folder."""
    sha = hashlib.sha256()
    for name in ("locus", "locus-compute", "locus-mpi.so", "locus_bench_ranks"):
        if (build / name).exists():
            sha.update((build / name).read_bytes())
    return sha.hexdigest()[:16]


def ranks(num: int) -> list[str]:
    """A launcher of ranks on this machine, which share its cores."""
    return ["env", "OMP_NUM_THREADS=1", sys.executable, str(ROOT / "tools" / "ranks.py"), str(num)]


NUM_NODES, RANKS_PER_NODE, CPU_SHARE = 4, 2, 0.2
NUM_RANKS = NUM_NODES * RANKS_PER_NODE


def cluster(mbit: float | None) -> list[str]:
    """A launcher of ranks on emulated nodes, whose links have this rate; None: no limit.

    torchrun, and so Gloo, whose waits sleep: Open MPI polls, and a rank that polls uses up its share of
    the cores, which makes the work beside it look slow.
    """
    rate = [] if mbit is None else ["--rate", f"{round(mbit * 1000)}kbit"]
    return [sys.executable, str(ROOT / "tools" / "emulated_cluster"), "--nodes", str(NUM_NODES),
            "--ranks-per-node", str(RANKS_PER_NODE), "--cpu-share", str(CPU_SHARE), *rate,
            "--launcher", "torchrun", "--", "env", "OMP_NUM_THREADS=1"]


def measured_topology(measured: Measurements, link: str, mbit: float) -> pathlib.Path:
    """The file of `locus topology` on the cluster whose links have this rate."""
    path = measured.bench.scratch / f"topology-{measured.part}-{link}.json"

    def measure() -> dict:
        run([*cluster(mbit), measured.bench.program, "topology", "--output", str(path)])
        return {"text": path.read_text(encoding="utf-8")}

    path.write_text(measured.once(f"topology-{link}", {"mbit": mbit}, measure)["text"], encoding="utf-8")
    return path


def require_cluster(bench: Bench) -> None:
    run([*cluster(None), "true"])


def make_data(bench: Bench) -> str:
    """Random words, all equally frequent."""
    folder = bench.scratch / "random-words"
    if not (folder / "dataset.json").exists():
        draw = random.Random(1)
        words = ["".join(draw.choices("abcdefghijklmnop", k=draw.randint(2, 5))) for _ in range(400)]
        text = bench.scratch / "words.jsonl"
        text.write_text("".join(json.dumps({"text": " ".join(draw.choices(words, k=400))}) + "\n"
                                for _ in range(1200)), encoding="utf-8")
        run([bench.program, "prepare", "--output", str(folder), "--overwrite", "--vocab-size", "512",
             "--valid-share", "0", "--test-share", "0", str(text)])
        text.unlink()
    return str(folder)


# Long enough for the balance loss to spread the tokens: the most loaded rank has a twentieth more than the mean.
BALANCING = {"train.max_steps": 120, "train.micro_batch_size": 16, "train.num_threads": harness.THREADS,
             "lr_schedule.lr": 3e-3, "lr_schedule.warmup_steps": 10, "checkpoint.keep_last": 1}


def balanced_settings(bench: Bench, model: dict | None = None) -> dict:
    """`model`, data, and weights whose routers have learned to load the ranks alike. Those of a new model do not: all
    would wait for the slowest rank, whatever the exchange."""
    model = model or {}
    settings = BALANCING | model | {"data.train": [make_data(bench)]}
    text = CONFIG.read_text(encoding="utf-8") + json.dumps(settings)
    folder = bench.scratch / f"balanced-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    if not (folder / "checkpoints" / "latest").exists():
        note("  training routers until they load the ranks alike")
        shutil.rmtree(folder, ignore_errors=True)
        run(train_command(bench.program, CONFIG, settings | {"train.output_dir": str(folder)}))
    return model | {"data.train": settings["data.train"], "checkpoint.initial_load_path": str(folder),
            "lr_schedule.lr": 1e-5, "lr_schedule.min_lr": 1e-6}


def train_command(program: str, config: pathlib.Path, settings: dict) -> list[str]:
    return [program, "train", "--config", str(config),
            *(word for key, value in settings.items() for word in ("--set", f"{key}={json.dumps(value)}"))]
