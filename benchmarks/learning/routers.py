#!/usr/bin/env python3
"""Which router learns best? One small model with each router of `locus list routers`, and the dense
model of equal active parameters, trained on equal steps with several seeds.

A run that is done is not done again, and one that was interrupted goes on: start this as often as
you like. What a finished run says is kept in routers_runs.json beside this file, so that the work may be
spread over days and machines; the runs themselves are under runs/learning/. Writes
benchmarks/results/routers.json and docs/images/routers_*.svg, and prints the table of
docs/routers.md.
"""
from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import datetime
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys
import threading

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
from benchmarks import bench  # noqa: E402: the tree first
from benchmarks.learning import chart  # noqa: E402

WORK = bench.ROOT / "runs" / "learning"
RECORDS = pathlib.Path(__file__).with_name("routers_runs.json")
CONFIG = bench.ROOT / "benchmarks" / "configs" / "learning.toml"
ACTIVE_WIDTH = 256  # of the experts of one token together, and of the dense network
DENSE = "dense"
# What each router's paper does, where it is not our default. For top_k: weights that sum to 2 keep
# the layer's output as large as the dense one's (short runs with seed 1 chose both numbers). Switch
# scales its output by a probability that the balance loss keeps small: a weaker loss, and no drops.
SETTINGS = {
    "top_k": {"moe.top_k.routed_scaling_factor": 2.0, "moe.router.aux_loss_coeff": 0.003},
    "switch": {"moe.router.aux_loss_coeff": 0.003},
    "gshard": {"moe.router.capacity_factor": 1.25},
    "hash": {"moe.router.top_k": 1, "moe.hash.table": "balanced",
             "moe.router.aux_loss_coeff": 0.0, "moe.router.z_loss_coeff": 0.0},
}
COMMAND = "python3 benchmarks/learning/routers.py"


@dataclasses.dataclass(frozen=True)
class Run:
    router: str
    seed: int
    steps: int

    @property
    def folder(self) -> pathlib.Path:
        return WORK / f"routers_{self.steps}" / f"{self.router}-{self.seed}"

    def lines(self, kind: str) -> list[dict]:
        path = self.folder / "metrics.jsonl"
        if not path.exists():
            return []
        found = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        return [line for line in found if line["kind"] == kind]

    def is_trained(self) -> bool:
        return any(line["reason"] == "finished" for line in self.lines("end"))

    def tail_mean(self, key: str) -> float:
        """Over all layers and the last tenth of the steps."""
        values = [line[key] for line in self.lines("moe") if line["step"] > self.steps * 0.9]
        return statistics.mean(values) if values else 0.0

    def record(self, settings: list[str]) -> dict:
        """What a finished run says."""
        score = json.loads((self.folder / "eval.json").read_text(encoding="utf-8"))
        shape = self.lines("run")[0]
        return {
            "router": self.router, "seed": self.seed, "steps": self.steps, "settings": settings,
            "loss": score["loss"],
            "by_domain": {name: one["loss"] for name, one in sorted(score["by_domain"].items())},
            "max_over_mean_load": self.tail_mean("load_max_over_mean"),
            "dropped_share": self.tail_mean("dropped_share"),
            "parameters": shape["parameters"], "active_parameters": shape["active_parameters"],
            "wall_s": sum(line["wall_s"] for line in self.lines("end")),
            "curve": [(line["step"], line["loss"]) for line in self.lines("valid")],
            "machine": bench.machine(), "date": datetime.date.today().isoformat()}


class Records:
    """Of all finished runs; one counts only for the settings that it was made with."""

    def __init__(self):
        self.lock = threading.Lock()
        self.all = json.loads(RECORDS.read_text(encoding="utf-8")) if RECORDS.exists() else []

    def find(self, run: Run, settings: list[str]) -> dict | None:
        return next((one for one in self.all if (one["router"], one["seed"], one["steps"]) == (
            run.router, run.seed, run.steps) and one["settings"] == settings), None)

    def add(self, record: dict) -> None:
        with self.lock:
            self.all.append(record)
            self.all.sort(key=lambda one: (one["steps"], one["router"], one["seed"]))
            text = ",\n".join(json.dumps(one) for one in self.all)
            partial = RECORDS.with_suffix(".partial")
            partial.write_text(f"[\n{text}\n]\n", encoding="utf-8")
            partial.rename(RECORDS)


class Experiment:
    """The program, the data, and how much of both."""

    def __init__(self, arguments: argparse.Namespace):
        self.program = str(pathlib.Path(arguments.build).resolve() / "locus")
        self.threads, self.steps = arguments.threads, arguments.steps
        self.data = WORK / "domains"
        self.environment = os.environ | {"OMP_WAIT_POLICY": "passive"}

    def call(self, *command: object, log: pathlib.Path | None = None) -> str:
        done = subprocess.run([self.program, *map(str, command)], env=self.environment,
                              cwd=bench.ROOT, capture_output=True, text=True)
        if log:
            with open(log, "a", encoding="utf-8") as file:
                file.write(done.stderr)
        if done.returncode:
            raise SystemExit(f"locus {' '.join(map(str, command))} ended with {done.returncode}:\n"
                             f"{done.stderr[-2000:]}")
        return done.stdout

    def prepare(self, text: pathlib.Path) -> None:
        if (self.data / "dataset.json").exists():
            return
        bench.note(f"preparing {text}")
        self.call("prepare", "--output", self.data, "--vocab-size", 4096, "--valid-share", 0.02,
                  "--test-share", 0, text)

    def routers(self) -> list[str]:
        shown = self.call("list", "routers").splitlines()
        return [line.split()[0] for line in shown if line.strip()]

    def settings(self, run: Run) -> list[str]:
        """What makes the model and its training, as `--set` options; the width of an expert follows
        from how many a token has."""
        values = {"train.seed": run.seed, "train.max_steps": run.steps}
        if run.router == DENSE:
            values |= {"moe.num_experts": 0, "model.intermediate_size": ACTIVE_WIDTH}
        else:
            values |= {"moe.router.type": run.router} | SETTINGS.get(run.router, {})
            values["moe.intermediate_size"] = ACTIVE_WIDTH // self.experts_per_token(values)
        return options(values)

    def places(self, run: Run) -> list[str]:
        """What changes no result."""
        return options({
            "data.train": [str(self.data)], "train.output_dir": str(run.folder),
            "train.num_threads": self.threads, "checkpoint.interval": max(run.steps // 4, 1),
            "checkpoint.keep_last": 1, "eval.interval": max(run.steps // 10, 1),
            "eval.max_batches": 8})

    def experts_per_token(self, values: dict) -> int:
        data = options({"data.train": [str(self.data)]})
        shown = self.call("train", "--config", CONFIG, "--dry-run", *data, *options(values))
        number = re.search(r"experts, width, per token +\d+, \d+, ([\d.]+)", shown)[1]
        return round(float(number))

    def finish(self, run: Run) -> dict:
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        log = run.folder.with_suffix(".log")
        settings = self.settings(run)
        if not run.is_trained():
            resume = ["--resume"] if (run.folder / "checkpoints" / "latest").exists() else []
            if not resume:  # stopped before its first checkpoint
                shutil.rmtree(run.folder, ignore_errors=True)
            self.call("train", "--config", CONFIG, *resume, *settings, *self.places(run), log=log)
        self.call("eval", "--checkpoint", run.folder, "--split", "valid", "--num-threads",
                  self.threads, "--output", run.folder / "eval.json", log=log)
        return run.record(settings)


def options(values: dict) -> list[str]:
    return [word for key, value in values.items()
            for word in ("--set", f"{key}={json.dumps(value)}")]


def summary(records: list[dict]) -> dict:
    """What the seeds of one router say."""
    def mean(key: str) -> float:
        return statistics.mean(one[key] for one in records)

    first = records[0]
    return {
        "seeds": [one["seed"] for one in records], "losses": [one["loss"] for one in records],
        "by_domain": {name: statistics.mean(one["by_domain"][name] for one in records)
                      for name in first["by_domain"]},
        "max_over_mean_load": mean("max_over_mean_load"), "dropped_share": mean("dropped_share"),
        "parameters": first["parameters"], "active_parameters": first["active_parameters"],
        "curve": [(points[0][0], statistics.mean(loss for _, loss in points))
                  for points in zip(*(one["curve"] for one in records))]}


def rows_of(harness: bench.Bench, found: dict[str, dict], steps: int) -> list[dict]:
    rows = []
    for name, one in found.items():
        paired = name != DENSE and DENSE in found and one["seeds"] == found[DENSE]["seeds"]
        more = {key: value for key, value in one.items() if key != "curve"}
        rows.append(harness.row(
            f"validation loss after {steps} steps: {name}", one["losses"], "nats per token",
            "the dense model of equal active parameters" if paired else "",
            found[DENSE]["losses"] if paired else None, {"at_most": 1.0} if paired else None,
            **more) | {"command": COMMAND})
    return rows


def markdown(found: dict[str, dict]) -> str:
    lines = ["| router | parameters, active | validation loss, mean (seeds) | against dense | "
             "most loaded expert / mean | dropped |", "| --- " * 6 + "|"]
    dense = statistics.mean(found[DENSE]["losses"]) if DENSE in found else None
    for name, one in sorted(found.items(), key=lambda item: statistics.mean(item[1]["losses"])):
        mean = statistics.mean(one["losses"])
        apart = f"{mean - dense:+.3f}" if dense and name != DENSE else ""
        seeds = ", ".join(f"{loss:.3f}" for loss in one["losses"])
        load = f"{one['max_over_mean_load']:.2f}" if name != DENSE else ""
        dropped = f"{one['dropped_share']:.1%}" if name != DENSE else ""
        size = f"{one['parameters'] / 1e6:.1f}M, {one['active_parameters'] / 1e6:.1f}M"
        lines.append(f"| {name} | {size} | {mean:.3f} ({seeds}) | {apart} | {load} | {dropped} |")
    return "\n".join(lines)


def draw(found: dict[str, dict], steps: int) -> None:
    images = bench.ROOT / "docs" / "images"
    images.mkdir(exist_ok=True)
    curves = {f"{'~' * (name == DENSE)}{name}": one["curve"] for name, one in found.items()}
    (images / "routers_loss.svg").write_text(
        chart.lines("Validation loss while training, mean of the seeds", "step",
                    "nats per token", curves), encoding="utf-8")
    if DENSE not in found:
        return
    base, names = found[DENSE]["by_domain"], [name for name in found if name != DENSE]
    gains = {domain: [found[name]["by_domain"][domain] - base[domain] for name in names]
             for domain in base}
    (images / "routers_domains.svg").write_text(
        chart.shades(f"Validation loss by domain minus the dense model's, after {steps} steps",
                     names, gains, note="nats per token; blue: better than dense"),
        encoding="utf-8")


def train_all(experiment: Experiment, records: Records, runs: list[Run], jobs: int) -> None:
    waiting = [run for run in runs if records.find(run, experiment.settings(run)) is None]
    bench.note(f"{len(runs) - len(waiting)} of {len(runs)} runs are done already")
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        started = {pool.submit(experiment.finish, run): run for run in waiting}
        try:
            for future in concurrent.futures.as_completed(started):
                record = future.result()
                records.add(record)
                bench.note(f"{record['router']}, seed {record['seed']}: validation loss "
                           f"{record['loss']:.4f}")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=str(bench.ROOT / "../shared/data/domains.jsonl.gz"))
    parser.add_argument("--build", default="build", help="folder of the program")
    parser.add_argument("--steps", type=int, default=3000, help="of 2,048 tokens each")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--routers", nargs="+", help="some alone (and `dense`); default: all")
    parser.add_argument("--jobs", type=int, default=2, help="runs at a time")
    parser.add_argument("--threads", type=int, default=1, help="of a run")
    arguments = parser.parse_args()
    if not pathlib.Path(arguments.data).exists():
        raise SystemExit(f"skipped: {arguments.data} is not there; name another JSONL file with "
                         "domains by --data")
    experiment = Experiment(arguments)
    experiment.prepare(pathlib.Path(arguments.data))
    names = arguments.routers or [DENSE, *experiment.routers()]
    runs = {name: [Run(name, seed, arguments.steps) for seed in arguments.seeds] for name in names}
    # Seed by seed, so that a first comparison is there early.
    records = Records()
    train_all(experiment, records, [one for seed in zip(*runs.values()) for one in seed],
              arguments.jobs)
    found = {name: summary([records.find(run, experiment.settings(run)) for run in several])
             for name, several in runs.items()}
    harness = bench.Bench("routers", pathlib.Path(arguments.build), sys.executable)
    bench.write_rows("routers", rows_of(harness, found, arguments.steps))
    draw(found, arguments.steps)
    print(markdown(found))


if __name__ == "__main__":
    main()
