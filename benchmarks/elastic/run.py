#!/usr/bin/env python3
"""One training that serves every size, against trainings of each size alone, against cutting a model that was trained
alone, and what the smaller models save where they run.

Everything is done once: start it as often as you like, it goes on where it was stopped. Writes
benchmarks/results/elastic.json; docs/elastic.md explains the rows.
"""
from __future__ import annotations

import argparse
import json
import pathlib
import re
import signal
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
from benchmarks import bench  # noqa: E402: the tree first
from benchmarks.learning.runs import Records, Run, Trainings, options, train_all  # noqa: E402

CONFIG = bench.ROOT / "benchmarks" / "configs" / "elastic.toml"
WORK = bench.ROOT / "runs" / "elastic"
RECORDS = pathlib.Path(__file__).with_name("runs.json")
PAGE = bench.ROOT / "docs" / "elastic.md"
COMMAND = "make bench-elastic"
BUDGETS = (0.25, 0.5, 0.75)
DANCE = {"dance.budgets": list(BUDGETS), "dance.begin": 0.5}
# Each is a method of Experiment and a table of the page.
PARTS = {"family": "One run against one for each size", "cut": "Other ways to a smaller model",
         "served": "Where they run", "routers": "Half of LocMoE+ and EvoMoE"}
# Of a step's length: how long a cut model is trained on, with a tenth of the rate.
TUNED_SHARE = 0.05
ROUTERS = {
    "top_k": {},
    "locmoe_plus": {"moe.router.type": "locmoe_plus", "moe.router.top_k": 1, "moe.locmoe_plus.temperature": 0.3,
                    "moe.locmoe_plus.output_weight": "probability"},
    "evomoe": {"moe.router.type": "dense_to_sparse", "moe.router.top_k": 1, "moe.dense_to_sparse.max_temperature": 1.0,
               "moe.dense_to_sparse.min_temperature": 0.1, "moe.dense_to_sparse.anneal_steps": 100,
               "evolve.num_experts": [1], "evolve.spawn_steps": [60]},
}


def percent(budget: float) -> str:
    return f"{budget:.0%}"


def record_of(run: Run) -> dict:
    return run.record() | {"flops": run.lines("train")[-1]["flops"]}


class Family:
    """A run that has been trained, and what is taken out of it."""

    def __init__(self, program: str, run: Run):
        self.program, self.run = program, run

    def member(self, budget: float, extra: tuple[str, ...] = ()) -> dict:
        """The record of `locus extract`, with the seconds that it took; made once."""
        folder = self.run.folder.with_name(f"{self.run.folder.name}-{percent(budget)}")
        timed = folder.with_suffix(".seconds")
        if not timed.exists():
            subprocess.run(["rm", "-rf", folder], check=True)
            begin = time.monotonic()
            subprocess.run([self.program, "extract", self.run.folder, "--budget", f"flops={budget}", "--output", folder,
                            "--num-threads", "1", *extra], cwd=bench.ROOT, check=True, capture_output=True)
            timed.write_text(f"{time.monotonic() - begin}\n", encoding="utf-8")
        record = json.loads((folder / "extract.json").read_text(encoding="utf-8"))
        return record | {"folder": folder, "seconds": float(timed.read_text(encoding="utf-8"))}

    def shape(self, budget: float) -> dict:
        """The settings of that model's shape, to train it alone."""
        config = json.loads((self.member(budget)["folder"] / "config.json").read_text(encoding="utf-8"))
        lists = dict(setting.split(" = ", 1) for setting in config["locus"]["settings"])
        return {key: json.loads(value) for key, value in lists.items() if key.endswith("_per_layer")}


class Experiment:
    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        self.trainings = Trainings(str(arguments.build), CONFIG, WORK / "domains")
        self.trainings.prepare(pathlib.Path(arguments.data), vocab_size=1024)
        self.records = Records(RECORDS)
        self.harness = bench.Bench("elastic", arguments.build.resolve(), sys.executable)

    def run_of(self, name: str, seed: int, settings: dict, steps: int | None = None) -> Run:
        steps = steps or self.arguments.steps
        every = {"train.seed": seed, "train.max_steps": steps} | settings
        return Run(name, seed, steps, WORK / "runs" / f"{name.replace(' ', '_').replace('%', '')}-{seed}-{steps}",
                   tuple(options(every)))

    def train(self, runs: list[Run]) -> list[dict]:
        train_all(self.trainings, self.records, runs, self.arguments.jobs, record_of)
        return [self.records.find(run) for run in runs]

    def joint_runs(self, name: str = "joint", settings: dict | None = None) -> list[Run]:
        runs = [self.run_of(name, seed, DANCE | (settings or {})) for seed in self.arguments.seeds]
        self.train(runs)
        for run in runs:  # models are taken out of the run itself, whoever trained it first
            self.trainings.train(run)
        return runs

    def families(self, runs: list[Run]) -> list[Family]:
        return [Family(self.trainings.program, run) for run in runs]

    def row(self, what: str, values: list[float], unit: str, *rest, **more) -> dict:
        return self.harness.row(what, values, unit, *rest, command=COMMAND, seeds=self.arguments.seeds, **more)

    def family(self) -> list[dict]:
        runs = self.joint_runs()
        families = self.families(runs)
        alone = {1.0: self.train([self.run_of("alone 100%", seed, {}) for seed in self.arguments.seeds])}
        for budget in BUDGETS:
            alone[budget] = self.train([
                self.run_of(f"alone {percent(budget)}", one.run.seed, one.shape(budget)) for one in families])
        joint = [self.records.find(run) for run in runs]
        rows = []
        for budget in (*BUDGETS, 1.0):
            losses = ([one["loss"] for one in joint] if budget == 1.0 else
                      [one.member(budget)["validation_loss"] for one in families])
            goal = {"at_most": 1.0 if budget == 0.25 else 1.02}
            rows.append(self.row(f"validation loss at {percent(budget)} of the FLOPs, of one run", losses, "nats per token",
                                 "the same model trained alone", [one["loss"] for one in alone[budget]], goal))
        rows.append(self.row(
            "FLOPs of that run", [one["flops"] for one in joint], "FLOPs", "the four trained alone",
            [sum(of_size[i]["flops"] for of_size in alone.values()) for i in range(len(joint))], {"at_most": 0.60}))
        rows.append(self.row(
            "time of that run", [one["wall_s"] for one in joint], "s", "the four trained alone",
            [sum(of_size[i]["wall_s"] for of_size in alone.values()) for i in range(len(joint))]))
        rows.append(self.row("a further budget: choosing, evaluating and writing it",
                             [one.member(budget)["seconds"] for one in families for budget in BUDGETS], "s", "10 s", 10.0,
                             {"at_most": 1.0}))
        return rows

    def tuned(self, name: str, family: Family, budget: float) -> Run:
        steps = max(1, round(TUNED_SHARE * self.arguments.steps))
        rates = {"lr_schedule.lr": 3e-4, "lr_schedule.min_lr": 3e-5, "lr_schedule.warmup_steps": 1}
        return self.run_of(f"{name} {percent(budget)} tuned", family.run.seed,
                           rates | {"checkpoint.initial_load_path": str(family.member(budget)["folder"])}, steps)

    def cut(self) -> list[dict]:
        """Each with the same steps of training after it."""
        joint = self.families(self.joint_runs())
        plain_runs = [self.run_of("alone 100%", seed, {}) for seed in self.arguments.seeds]
        self.train(plain_runs)
        for run in plain_runs:
            self.trainings.train(run)
        plain = self.families(plain_runs)
        rows = []
        for budget in BUDGETS:
            before = [[one.member(budget)["validation_loss"] for one in some] for some in (joint, plain)]
            after = [[one["loss"] for one in self.train([self.tuned(name, one, budget) for one in some])]
                     for name, some in (("joint", joint), ("pruned", plain))]
            for what, (ours, theirs) in (("as it is", before), ("tuned", after)):
                goal = {"at_most": 1.0} if what == "tuned" else None
                rows.append(self.row(f"validation loss at {percent(budget)}, {what}", ours, "nats per token",
                                     "pruned by the size of weights", theirs, goal))
        return rows

    def served(self) -> list[dict]:
        """Half of the FLOPs: speed of evaluation in turns, size of the file, latency by the table and measured."""
        family = self.families(self.joint_runs())[0]
        whole = [path for path in sorted((family.run.folder / "checkpoints").glob("step_*"))][-1]
        half = family.member(0.5)

        def tokens_per_s(folder: pathlib.Path) -> float:
            begin = time.monotonic()
            out = self.trainings.call("eval", "--checkpoint", folder, "--data", self.trainings.data, "--num-threads", 1,
                                      "--max-batches", 150, "--batch-size", 16)
            return int(out.split()[-1]) / (time.monotonic() - begin)

        speeds = [(tokens_per_s(half["folder"]), tokens_per_s(whole)) for _ in range(5)]
        rows = [self.row("tokens/s of evaluation at 50%, program start included", [a for a, _ in speeds], "tokens/s",
                         "the whole model", [b for _, b in speeds], {"at_least": 1.6})]
        size = sum(path.stat().st_size for path in half["folder"].glob("*.safetensors"))
        rows.append(self.row("bytes of the file at 50%", [size], "bytes", "4 a parameter of the cost model",
                             4 * half["costs"]["parameters"]["cost"], {"at_most": 1.02}))
        table = WORK / "latency.json"
        self.trainings.call("measure-latency", whole, "--output", table, "--num-threads", 1)
        fast = WORK / "fast"
        subprocess.run(["rm", "-rf", fast], check=True)
        out = self.trainings.call("extract", family.run.folder, "--budget", "latency=0.75", "--target", table, "--output",
                                  fast, "--num-threads", 1, "--max-batches", 20)
        share = float(re.search(r"latency ([\d.]+)", out)[1])
        measured = [self.whole_latency(fast) / self.whole_latency(whole) for _ in range(5)]
        rows.append(self.row("latency of a token, asked for 0.75", measured, "of the whole model's", "as reckoned", share,
                             {"at_most": 1.05}))
        return rows

    def whole_latency(self, folder: pathlib.Path) -> float:
        out = self.trainings.call("measure-latency", folder, "--output", WORK / "scratch.json", "--num-threads", 1)
        return float(re.search(r"of the whole model ([\d.]+) ms", out)[1])

    def routers(self) -> list[dict]:
        rows, base = [], None
        for name, settings in ROUTERS.items():
            runs = self.joint_runs("joint" if name == "top_k" else f"joint {name}", settings)
            losses = [self.records.find(run)["loss"] for run in runs]
            half = [one.member(0.5)["validation_loss"] for one in self.families(runs)]
            ratios = [a / b for a, b in zip(half, losses)]
            base = base or ratios
            rows.append(self.row(f"loss of half of a {name} model, of the whole one's", ratios, "", "top_k's", base,
                                 None if name == "top_k" else {"at_most": 1.02}))
        return rows


def table_of(rows: list[dict]) -> str:
    lines = ["| | value | against | ratio (quartiles) | goal | |", "| --- " * 6 + "|"]
    for row in rows:
        ratio = ""
        if row["ratio"] is not None:
            ratio = f"{bench.short(row['ratio'])} ({' to '.join(map(bench.short, row['quartiles']))})"
        state = {True: "met", False: "**missed**", None: ""}[row["met"]]
        lines.append(f"| {row['what']} | {row['value']:.4g} {row['unit']} | {row['against']} | {ratio} | "
                     f"{bench.goal_text(row['goal'])} | {state} |")
    return "\n".join(lines)


def write_page(rows: list[dict]) -> None:
    text = PAGE.read_text(encoding="utf-8")
    begin, end = "<!-- results -->", "<!-- end -->"
    head, tail = text[:text.index(begin) + len(begin)], text[text.index(end):]
    tables = "\n\n".join(f"**{title}**\n\n{table_of([row for row in rows if row['part'] == part])}"
                         for part, title in PARTS.items() if any(row["part"] == part for row in rows))
    PAGE.write_text(f"{head}\n{tables}\n{tail}", encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=bench.ROOT / "../shared/data/domains.jsonl.gz", type=pathlib.Path)
    parser.add_argument("--build", default="build", type=pathlib.Path, help="folder of the program")
    parser.add_argument("--steps", type=int, default=1000, help="of a training, 2,048 tokens each")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    if not arguments.data.exists():
        raise SystemExit(f"skipped: {arguments.data} is not there; name a text by --data")
    experiment = Experiment(arguments)
    rows = bench.read_rows().get("elastic", [])
    for part in arguments.parts:
        found = getattr(experiment, part)()
        rows = [row for row in rows if row["part"] != part or row["machine"] != bench.machine()]
        rows += [row | {"part": part} for row in found]
        bench.write_rows("elastic", rows)
        write_page(rows)
    print(bench.table({"elastic": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
