#!/usr/bin/env python3
"""Which router learns best? One small model with each router of `locus list routers`, and the dense
model of equal active parameters, trained on equal steps with several seeds.

A run that is done is not done again, and one that was interrupted goes on: start this as often as
you like. State is under runs/learning/. Writes benchmarks/results/routers.json and
docs/images/routers_*.svg, and prints the table of docs/routers.md.
"""
from __future__ import annotations

import argparse
import concurrent.futures
import dataclasses
import json
import os
import pathlib
import re
import shutil
import statistics
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
from benchmarks import bench  # noqa: E402: the tree first
from benchmarks.learning import chart  # noqa: E402

WORK = bench.ROOT / "runs" / "learning"
CONFIG = bench.ROOT / "benchmarks" / "configs" / "learning.toml"
ACTIVE_WIDTH = 256  # of the experts of one token together, and of the dense network
DENSE = "dense"
# What each router's paper does, where it is not our default.
SETTINGS = {
    "switch": {"moe.router.capacity_factor": 1.25},
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

    def is_done(self) -> bool:
        return ((self.folder / "eval.json").exists()
                and any(line["reason"] == "finished" for line in self.lines("end")))


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
        """`--set` options; the width of an expert follows from how many a token has."""
        values = {"data.train": [str(self.data)], "train.output_dir": str(run.folder),
                  "train.seed": run.seed, "train.max_steps": run.steps,
                  "train.num_threads": self.threads, "checkpoint.interval": max(run.steps // 4, 1),
                  "checkpoint.keep_last": 1, "eval.interval": max(run.steps // 10, 1),
                  "eval.max_batches": 8}
        if run.router == DENSE:
            values |= {"moe.num_experts": 0, "model.intermediate_size": ACTIVE_WIDTH}
        else:
            values |= {"moe.router.type": run.router} | SETTINGS.get(run.router, {})
            values["moe.intermediate_size"] = ACTIVE_WIDTH // self.experts_per_token(values)
        return options(values)

    def experts_per_token(self, values: dict) -> int:
        shown = self.call("train", "--config", CONFIG, "--dry-run", *options(values))
        number = re.search(r"experts, width, per token +\d+, \d+, ([\d.]+)", shown)[1]
        return round(float(number))

    def finish(self, run: Run) -> None:
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        log = run.folder.with_suffix(".log")
        if not any(line["reason"] == "finished" for line in run.lines("end")):
            resume = ["--resume"] if (run.folder / "checkpoints" / "latest").exists() else []
            if not resume:  # stopped before its first checkpoint
                shutil.rmtree(run.folder, ignore_errors=True)
            self.call("train", "--config", CONFIG, *resume, *self.settings(run), log=log)
        self.call("eval", "--checkpoint", run.folder, "--split", "valid", "--num-threads",
                  self.threads, "--output", run.folder / "eval.json", log=log)


def options(values: dict) -> list[str]:
    return [word for key, value in values.items()
            for word in ("--set", f"{key}={json.dumps(value)}")]


def tail_mean(run: Run, key: str) -> float:
    """Over all layers and the last tenth of the steps."""
    values = [line[key] for line in run.lines("moe") if line["step"] > run.steps * 0.9]
    return statistics.mean(values) if values else 0.0


def summary(runs: list[Run]) -> dict:
    """What the seeds of one router say."""
    scores = [json.loads((run.folder / "eval.json").read_text(encoding="utf-8")) for run in runs]
    losses = [score["loss"] for score in scores]
    domains = sorted(scores[0]["by_domain"])
    curves = [[(line["step"], line["loss"]) for line in run.lines("valid")] for run in runs]
    count = runs[0].lines("run")[0]
    return {
        "seeds": [run.seed for run in runs], "losses": losses,
        "by_domain": {name: statistics.mean(score["by_domain"][name]["loss"] for score in scores)
                      for name in domains},
        "max_over_mean_load": statistics.mean(tail_mean(run, "load_max_over_mean") for run in runs),
        "dropped_share": statistics.mean(tail_mean(run, "dropped_share") for run in runs),
        "parameters": count["parameters"], "active_parameters": count["active_parameters"],
        "wall_s": statistics.mean(sum(line["wall_s"] for line in run.lines("end")) for run in runs),
        "curve": [(points[0][0], statistics.mean(loss for _, loss in points))
                  for points in zip(*curves)]}


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
             "most loaded expert / mean | dropped | minutes |", "| --- " * 7 + "|"]
    dense = statistics.mean(found[DENSE]["losses"]) if DENSE in found else None
    for name, one in sorted(found.items(), key=lambda item: statistics.mean(item[1]["losses"])):
        mean = statistics.mean(one["losses"])
        apart = f"{mean - dense:+.3f}" if dense and name != DENSE else ""
        seeds = ", ".join(f"{loss:.3f}" for loss in one["losses"])
        load = f"{one['max_over_mean_load']:.2f}" if name != DENSE else ""
        dropped = f"{one['dropped_share']:.1%}" if name != DENSE else ""
        size = f"{one['parameters'] / 1e6:.1f}M, {one['active_parameters'] / 1e6:.1f}M"
        lines.append(f"| {name} | {size} | {mean:.3f} ({seeds}) | {apart} | {load} | {dropped} "
                     f"| {one['wall_s'] / 60:.1f} |")
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


def train_all(experiment: Experiment, runs: list[Run], jobs: int) -> None:
    waiting = [run for run in runs if not run.is_done()]
    bench.note(f"{len(runs) - len(waiting)} of {len(runs)} runs are done already")
    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        started = {pool.submit(experiment.finish, run): run for run in waiting}
        try:
            for future in concurrent.futures.as_completed(started):
                future.result()
                run = started[future]
                loss = json.loads((run.folder / "eval.json").read_text())["loss"]
                bench.note(f"{run.router}, seed {run.seed}: validation loss {loss:.4f}")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=str(bench.ROOT / "../shared/data/domains.jsonl.gz"))
    parser.add_argument("--build", default="build", help="folder of the program")
    parser.add_argument("--steps", type=int, default=1500, help="of 2,048 tokens each")
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
    train_all(experiment, [one for seed in zip(*runs.values()) for one in seed], arguments.jobs)
    found = {name: summary(several) for name, several in runs.items()}
    harness = bench.Bench("routers", pathlib.Path(arguments.build), sys.executable)
    bench.write_rows("routers", rows_of(harness, found, arguments.steps))
    draw(found, arguments.steps)
    print(markdown(found))


if __name__ == "__main__":
    main()
