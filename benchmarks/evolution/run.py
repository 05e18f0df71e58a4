#!/usr/bin/env python3
"""EvoMoE against Switch, BASE, Hash and StableMoE on three kinds of model, with equal FLOPs, and what each of its
parts is worth.

The trainings are those of `locus compare` with the files beside this one: each is done once, so start it as often as
you like. Writes benchmarks/results/evolution.json and the tables of docs/evolution.md.
"""
from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import math
import pathlib
import re
import signal
import statistics
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
from benchmarks import bench  # noqa: E402: the tree first

HERE = pathlib.Path(__file__).parent
WORK = bench.ROOT / "runs" / "evolution"
PAGE = bench.ROOT / "docs" / "evolution.md"
COMMAND = "make bench-evolution"
OURS = "evomoe"
BASELINES = ("switch", "base", "hash", "stablemoe")
# Each is a comparison, and a table of the page.
PARTS = {"gpt": "Language model", "mlm": "Encoder, masked tokens", "translation": "Translation",
         "ablations": "One thing changed at a time", "tuning": "What was tried",
         "tuning_evomoe": "What was tried of EvoMoE"}
SIDE = ("ablations", "tuning", "tuning_evomoe")  # of one seed: no goals
# Of Student's t distribution, two-sided 95%, by degrees of freedom.
STUDENT = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}


@dataclasses.dataclass(frozen=True)
class Training:
    """A line of compare.csv."""
    variant: str
    seed: int
    loss: float
    flops: float
    wall_s: float
    experts_per_token: float
    folder: pathlib.Path

    def lines(self, kind: str) -> list[dict]:
        found = map(json.loads, (self.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
        return [line for line in found if line["kind"] == kind]


class Comparison:
    """What `locus compare` has made of one of the files."""

    def __init__(self, program: str, part: str):
        self.part = part
        file = HERE / f"{part}.toml"
        subprocess.run([program, "compare", str(file)], cwd=bench.ROOT, check=True)
        self.output = WORK / part
        with open(self.output / "compare.csv", encoding="utf-8") as lines:
            self.trainings = [
                Training(line["variant"], int(line["seed"]), float(line["loss"]), float(line["flops"]),
                         float(line["wall_s"]), float(line["experts_per_token"] or "nan"),
                         bench.ROOT / line["folder"]) for line in csv.DictReader(lines)]

    def of(self, variant: str) -> list[Training]:
        return sorted((one for one in self.trainings if one.variant == variant), key=lambda one: one.seed)

    def variants(self) -> list[str]:
        return list(dict.fromkeys(one.variant for one in self.trainings))

    def table(self) -> str:
        """That of compare.md, without its heading."""
        text = (self.output / "compare.md").read_text(encoding="utf-8")
        return text.split("\n", 1)[1].strip()


def interval(differences: list[float]) -> tuple[float, float]:
    """The mean of paired differences, and half of its 95% interval."""
    if len(differences) < 2:
        return differences[0], math.inf
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return statistics.mean(differences), STUDENT[len(differences) - 1] * error


def difference_row(harness: bench.Bench, what: str, unit: str, ours: list[float], theirs: list[float], name: str,
                   sign: int) -> dict:
    """`sign` -1: less is better. Met where the whole interval is on the better side."""
    middle, half = interval([a - b for a, b in zip(ours, theirs, strict=True)])
    row = harness.row(f"{what}: {OURS}, {middle:+.3f} +- {half:.3f} to {name}", ours, unit, name, theirs, command=COMMAND,
                      difference=middle, half_interval=half)
    return row | {"met": sign * middle - half > 0}


def reached(training: Training, loss: float, spent) -> float | None:
    """What of `spent` a training had used up when its validation loss came to this one."""
    points = [(spent(training, line["step"]), line["loss"]) for line in training.lines("valid")]
    for (x0, y0), (x1, y1) in zip([points[0], *points], points):
        if y1 <= loss:
            return x1 if y0 == y1 else x0 + (x1 - x0) * min(1.0, (y0 - loss) / (y0 - y1))
    return None


def flops_by(training: Training, step: int) -> float:
    return max((line["flops"] for line in training.lines("train") if line["step"] <= step), default=0.0)


def seconds_by(training: Training, step: int) -> float:
    lines = training.lines("train")
    gaps = [one["step"] - before for one, before in zip(lines, [0, *(line["step"] for line in lines)])]
    return sum(line["step_time_s"] * gap for line, gap in zip(lines, gaps) if line["step"] <= step)


def same_loss_rows(harness: bench.Bench, task: str, made: Comparison) -> list[dict]:
    out = []
    for what, spent, goal in (("FLOPs", flops_by, 1 / 1.6), ("time", seconds_by, 1 / 2.2)):
        shares, never = [], 0
        for ours, switch in zip(made.of(OURS), made.of("switch"), strict=True):
            found = reached(ours, switch.loss, spent)
            never += found is None
            used = spent(ours, ours.lines("train")[-1]["step"]) if found is None else found
            shares.append(used / spent(switch, switch.lines("train")[-1]["step"]))
        row = harness.row(f"{task}: {what} to the last loss of switch, {OURS}, {never} of {len(shares)} seeds never came to it",
                          shares, "of switch's", "switch", 1.0, {"at_most": goal}, command=COMMAND)
        out.append(row | {"met": row["met"] and never == 0})
    return out


def experts_row(harness: bench.Bench, task: str, made: Comparison) -> dict:
    """Of k = 1 of 8: what the experts compute at the end, of what all of them would."""
    shares = [one.experts_per_token / 8 for one in made.of(OURS)]
    return harness.row(f"{task}: experts' work at the end of training, {OURS}", shares, "of all experts'", "k / n = 1 / 8",
                       1 / 8, {"at_most": 1.3}, command=COMMAND)


def spawn_row(harness: bench.Bench, task: str, made: Comparison) -> dict:
    """Steps after which the mean training loss of ten steps is back to that of the ten before the spawn."""
    steps = []
    for training in made.of(OURS):
        spawned = training.lines("spawn")[0]["step"]
        losses = {line["step"]: line["loss"] for line in training.lines("train")}
        before = [loss for step, loss in losses.items() if spawned - 10 < step <= spawned]
        for end in range(spawned + 1, max(losses) + 1):
            after = [loss for step, loss in losses.items() if max(spawned, end - 10) < step <= end]
            if after and statistics.mean(after) <= statistics.mean(before):
                steps.append(float(end - spawned))
                break
        else:  # not within the training: all of what was left
            steps.append(float(max(losses) - spawned))
    return harness.row(f"{task}: steps until the loss of before the spawn, {OURS}", steps, "steps", "", 50.0, {"at_most": 1.0},
                       command=COMMAND)


def bleu_of(program: str, training: Training, data: pathlib.Path) -> float:
    """Of test_2016_flickr, by beam search; kept beside the training."""
    kept = training.folder / "bleu.json"
    if not kept.exists():
        out = subprocess.run(
            [program, "translate", "--checkpoint", str(training.folder), "--input",
             str(data / "multi30k.test_2016_flickr.en"), "--reference", str(data / "multi30k.test_2016_flickr.de"),
             "--output", str(training.folder / "test.de")],
            cwd=bench.ROOT, check=True, capture_output=True, text=True).stdout
        kept.write_text(json.dumps({"bleu": float(re.match(r"BLEU ([\d.]+)", out)[1]), "told": out.strip()}) + "\n",
                        encoding="utf-8")
    return json.loads(kept.read_text(encoding="utf-8"))["bleu"]


class Experiment:
    def __init__(self, arguments: argparse.Namespace):
        self.data = arguments.data
        self.program = str(arguments.build.resolve() / "locus")
        self.harness = bench.Bench("evolution", arguments.build.resolve(), sys.executable)

    def prepare(self, folder: pathlib.Path, *arguments: object) -> None:
        if not (folder / "dataset.json").exists():
            subprocess.run([self.program, "prepare", "--output", str(folder), *map(str, arguments)], cwd=bench.ROOT, check=True)

    def prepare_all(self) -> None:
        self.prepare(WORK / "domains", "--vocab-size", 4096, "--valid-share", 0.02, "--test-share", 0,
                     self.data / "domains.jsonl.gz")
        train, valid, test = ([self.data / f"multi30k.{split}.{side}" for side in ("en", "de")]
                              for split in ("train", "val", "test_2016_flickr"))
        self.prepare(WORK / "pairs", "--vocab-size", 4096, "--pairs", *train, "--valid-pairs", ",".join(map(str, valid)),
                     "--test-pairs", ",".join(map(str, test)))

    def task(self, part: str) -> tuple[list[dict], str]:
        made = Comparison(self.program, part)
        losses = {name: [one.loss for one in made.of(name)] for name in made.variants()}
        rows = [difference_row(self.harness, f"{part}: validation loss with equal FLOPs", "nats per token", losses[OURS],
                               losses[name], name, -1) for name in BASELINES]
        table = made.table()
        if part == "translation":
            bleu = {name: [bleu_of(self.program, one, self.data) for one in made.of(name)] for name in made.variants()}
            rows += [difference_row(self.harness, f"{part}: BLEU with equal FLOPs", "BLEU", bleu[OURS], bleu[name], name, 1)
                     for name in BASELINES]
            table += "\n\nBLEU of test_2016_flickr: " + ", ".join(
                f"{name} {statistics.mean(values):.2f} ({min(values):.2f} to {max(values):.2f})"
                for name, values in bleu.items()) + "."
        rows += same_loss_rows(self.harness, part, made)
        rows += [experts_row(self.harness, part, made), spawn_row(self.harness, part, made)]
        return rows, table

    def plain(self, part: str) -> tuple[list[dict], str]:
        made = Comparison(self.program, part)
        rows = [self.harness.row(f"{part}: validation loss, {name}", [one.loss for one in made.of(name)], "nats per token",
                                 command=COMMAND) for name in made.variants()]
        return rows, made.table()

    def run(self, part: str) -> tuple[list[dict], str]:
        return self.plain(part) if part in SIDE else self.task(part)


def write_page(tables: dict[str, str]) -> None:
    """Each part's table between its own marks, as far as it has been made."""
    text = PAGE.read_text(encoding="utf-8")
    for part, table in tables.items():
        begin, end = f"<!-- {part} -->", f"<!-- end of {part} -->"
        head, tail = text[:text.index(begin) + len(begin)], text[text.index(end):]
        text = f"{head}\n**{PARTS[part]}**\n\n{table}\n{tail}"
    PAGE.write_text(text, encoding="utf-8")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=bench.ROOT / "../shared/data", type=pathlib.Path,
                        help="folder of domains.jsonl.gz and multi30k.*")
    parser.add_argument("--build", default="build", type=pathlib.Path, help="folder of the program")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    arguments.data = arguments.data.resolve()
    if not (arguments.data / "domains.jsonl.gz").exists():
        raise SystemExit(f"skipped: {arguments.data} has no domains.jsonl.gz; name a folder that has it by --data")
    experiment = Experiment(arguments)
    experiment.prepare_all()
    rows = bench.read_rows().get("evolution", [])
    for part in PARTS:
        if part not in arguments.parts:
            continue
        found, table = experiment.run(part)
        rows = [row for row in rows if row["part"] != part] + [row | {"part": part} for row in found]
        bench.write_rows("evolution", rows, are_all=True)
        write_page({part: table})
    print(bench.table({"evolution": rows}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
