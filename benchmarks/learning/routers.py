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
import pathlib
import re
import statistics
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
from benchmarks import bench  # noqa: E402: the tree first
from benchmarks.learning import chart  # noqa: E402
from benchmarks.learning.runs import Records, Run, Trainings, options, train_all  # noqa: E402

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


def settings(trainings: Trainings, router: str, seed: int, steps: int) -> list[str]:
    """What makes the model and its training; the width of an expert follows from how many a token
    has."""
    values = {"train.seed": seed, "train.max_steps": steps}
    if router == DENSE:
        values |= {"moe.num_experts": 0, "model.intermediate_size": ACTIVE_WIDTH}
    else:
        values |= {"moe.router.type": router} | SETTINGS.get(router, {})
        values["moe.intermediate_size"] = ACTIVE_WIDTH // experts_per_token(trainings, values)
    return options(values)


def experts_per_token(trainings: Trainings, values: dict) -> int:
    data = options({"data.train": [str(trainings.data)]})
    shown = trainings.call("train", "--config", CONFIG, "--dry-run", *data, *options(values))
    number = re.search(r"experts, width, per token +\d+, \d+, ([\d.]+)", shown)[1]
    return round(float(number))


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
    trainings = Trainings(arguments.build, CONFIG, WORK / "domains", arguments.threads)
    trainings.prepare(pathlib.Path(arguments.data))
    known = [line.split()[0] for line in trainings.call("list", "routers").splitlines() if line.strip()]
    names, steps = arguments.routers or [DENSE, *known], arguments.steps
    runs = {name: [Run(name, seed, steps, WORK / f"routers_{steps}" / f"{name}-{seed}",
                       tuple(settings(trainings, name, seed, steps))) for seed in arguments.seeds]
            for name in names}
    # Seed by seed, so that a first comparison is there early.
    records = Records(RECORDS)
    train_all(trainings, records, [one for seed in zip(*runs.values()) for one in seed],
              arguments.jobs)
    found = {name: summary([records.find(run) for run in several]) for name, several in runs.items()}
    harness = bench.Bench("routers", pathlib.Path(arguments.build), sys.executable)
    bench.write_rows("routers", rows_of(harness, found, arguments.steps))
    draw(found, arguments.steps)
    print(markdown(found))


if __name__ == "__main__":
    main()
