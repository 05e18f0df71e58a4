#!/usr/bin/env python3
"""LocMoE and LocMoE+ against Switch and Hash: losses, step times and bytes on an emulated cluster.

Everything is done once: start it as often as you like, it goes on where it was stopped. Writes
benchmarks/results/locality.json; docs/locality.md explains the rows.
"""
from __future__ import annotations

import argparse
import pathlib
import signal
import statistics
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
from benchmarks import bench  # noqa: E402: the tree first
from benchmarks.cluster.measured import Measurements, Skipped, require_cluster  # noqa: E402
from benchmarks.learning import chart  # noqa: E402
from benchmarks.learning.runs import Records, Trainings  # noqa: E402
from benchmarks.locality import learning, steps  # noqa: E402
from benchmarks.locality.variants import (ALONE, FRONTIER, GATES, LOCMOE_BOUND, LOCMOE_ONE_LEVEL, LOCMOE_PLUS,
                                          MAIN, SWITCH)  # noqa: E402

# Each is a method of Experiment and a table of the page.
PARTS = {"gate": "The gate", "learning": "Losses after equal steps", "frontier": "Tokens of an expert against loss",
         "steps": "On the cluster", "alone": "One measure at a time", "wall_time": "Losses in equal time"}
COMMAND = "make bench-locality"


def seeds_text(seeds: list[int]) -> str:
    return "one seed" if len(seeds) == 1 else f"{len(seeds)} seeds"


def loss_rows(harness: bench.Bench, records, variants, seeds: list[int], num_steps: int) -> list[dict]:
    def losses(variant) -> list[dict]:
        return [records.find(learning.run_of(variant, seed, num_steps)) for seed in seeds]

    best = min(statistics.mean(one["loss"] for one in losses(variant)) for variant in MAIN[:2])
    out = []
    for variant in variants:
        found = losses(variant)
        goal = {"at_most": 1.005} if variant.name in ("locmoe", "locmoe_plus") else None
        out.append(harness.row(
            f"validation loss after {num_steps} steps, {seeds_text(seeds)}: {variant.name}", [one["loss"] for one in found],
            "nats per token", "the better of switch and hash", best, goal, command=COMMAND, seeds=seeds,
            by_domain={name: statistics.mean(one["by_domain"][name] for one in found) for name in found[0]["by_domain"]},
            dropped_share=statistics.mean(one["dropped_share"] for one in found),
            max_over_mean_load=statistics.mean(one["max_over_mean_load"] for one in found)))
    return out


def tokens_rows(harness: bench.Bench, records, seeds: list[int], num_steps: int) -> list[dict]:
    """What LocMoE+ saves, and what its loss is beside that of LocMoE with all tokens."""
    locmoe, plus = ([records.find(learning.run_of(variant, seed, num_steps)) for seed in seeds] for variant in MAIN[2:])
    out = [harness.row(f"validation loss after {num_steps} steps, {seeds_text(seeds)}: locmoe_plus, and locmoe with all its tokens",
                       [one["loss"] for one in plus], "nats per token", "locmoe", [one["loss"] for one in locmoe],
                       command=COMMAND, seeds=seeds)]
    limit = 1.1  # of top-1's tokens: what experts have room for
    switch = [records.find(learning.run_of(SWITCH, seed, num_steps)) for seed in seeds]
    for name, key, most in (("at the end", "kept_end", 0.35), ("mean over training", "kept_mean", 0.55)):
        tokens = [one[key] for one in plus]
        out.append(harness.row(f"tokens per expert, locmoe_plus, {name}", tokens, "of top-1's",
                               "the slots of capacity factor 1.1", limit, {"at_most": most}, command=COMMAND))
        out.append(harness.row(f"tokens per expert, locmoe_plus, {name}, and what switch has left of its", tokens, "of top-1's",
                               "switch", [one[key] for one in switch], command=COMMAND))
    return out


def frontier_rows(harness: bench.Bench, records, seed: int, num_steps: int) -> list[dict]:
    """Of one seed, evaluated by the rule of training: else Switch drops nobody. Over the mean of the training: LocMoE+
    begins with most of its tokens, the others have few all the way."""
    out, lines = [], {}
    for method, variants in FRONTIER.items():
        for variant in variants:
            found = records.find(learning.run_of(variant, seed, num_steps))
            lines.setdefault(method, []).append((found["kept_mean"], found["batch_loss"]))
            out.append(harness.row(
                f"validation loss by the rule of training after {num_steps} steps with {found['kept_mean']:.2f} of top-1's tokens, {found['kept_end']:.2f} at the end: {variant.name}",
                [found["batch_loss"]], "nats per token", command=COMMAND, kept_end=found["kept_end"],
                kept_mean=found["kept_mean"], causal_loss=found["loss"]))
    (bench.ROOT / "docs" / "images" / "locality_frontier.svg").write_text(
        chart.lines(f"Loss and tokens of an expert, after {num_steps} steps", "tokens of an expert over the training, of top-1's",
                    "validation loss, nats per token", {name: sorted(one) for name, one in lines.items()}),
        encoding="utf-8")
    return out


def wall_time_row(harness: bench.Bench, trainings: Trainings, link: str, ours, other, num_steps: int,
                  arguments: argparse.Namespace) -> dict:
    """`num_steps` of the other take as long on the cluster as arguments.steps of ours; it trains anew, with a schedule
    of that many steps."""
    def losses(variant, num: int) -> list[float]:
        records = learning.train(trainings, (variant,), arguments.seeds, num, arguments.jobs)
        return [records.find(learning.run_of(variant, seed, num))["loss"] for seed in arguments.seeds]

    return harness.row(
        f"links ({link}), loss in equal time: {ours.name}, {arguments.steps} steps, and {other.name}, {num_steps}",
        losses(ours, arguments.steps), "nats per token", f"{other.name}, {num_steps} steps", losses(other, num_steps),
        {"at_most": 1.0}, command=COMMAND, seeds=arguments.seeds)


def markdown(rows: list[dict]) -> str:
    """Each part as a whole was made on one machine, in one run."""
    of_part = {part: [row for row in rows if row["part"] == part] for part in PARTS}
    return "\n\n".join(f"**{PARTS[part]}** ({some[0]['machine']}; {some[0]['date']})\n\n{table_of(some)}"
                       for part, some in of_part.items() if some)


def table_of(rows: list[dict]) -> str:
    lines = ["| | value | against | ratio (quartiles) | goal | |", "| --- " * 6 + "|"]
    for row in rows:
        ratio = ""
        if row["ratio"] is not None:
            ratio = bench.short(row["ratio"])
            if row["quartiles"][0] != row["quartiles"][1]:
                ratio += f" ({' to '.join(map(bench.short, row['quartiles']))})"
        state = {True: "met", False: "**missed**", None: ""}[row["met"]]
        if "waited_share" in row:
            state = f"waits {row['waited_share']:.0%}; {state}".rstrip("; ")
        lines.append(f"| {row['what']} | {row['value']:.4g} {row['unit']} | {row['against']} | {ratio} | "
                     f"{bench.goal_text(row['goal'])} | {state} |")
    return "\n".join(lines)


def write_page(rows: list[dict], about: str) -> None:
    """The table of docs/locality.md."""
    page = bench.ROOT / "docs" / "locality.md"
    text = page.read_text(encoding="utf-8")
    begin, end = "<!-- results -->", "<!-- end -->"
    head, tail = text[:text.index(begin) + len(begin)], text[text.index(end):]
    page.write_text(f"{head}\n{about}\n\n{markdown(rows)}\n{tail}", encoding="utf-8")


class Experiment:
    """Its parts, each a method that gives rows; those on the cluster raise Skipped where there can be none."""

    def __init__(self, arguments: argparse.Namespace):
        self.arguments = arguments
        self.trainings = Trainings(str(arguments.build), learning.CONFIG, learning.WORK / "domains")
        self.trainings.prepare(pathlib.Path(arguments.data))
        self.harness = bench.Bench("locality", arguments.build.resolve(), sys.executable)

    def train(self, variants: tuple, seeds: list[int], num_steps: int | None = None):
        return learning.train(self.trainings, variants, seeds, num_steps or self.arguments.steps, self.arguments.jobs)

    def gate(self) -> list[dict]:
        """Of one seed, and of fewer steps than the others."""
        seed, num_steps = self.arguments.seeds[0], self.arguments.gate_steps
        records = self.train(GATES, [seed], num_steps)
        found = {variant.name: records.find(learning.run_of(variant, seed, num_steps)) for variant in GATES}
        base = found[SWITCH.name]["loss"]
        return [self.harness.row(f"validation loss after {num_steps} steps, one seed: {name}", [one["loss"]], "nats per token",
                                 SWITCH.name, base, command=COMMAND, dropped_share=one["dropped_share"],
                                 max_over_mean_load=one["max_over_mean_load"]) for name, one in found.items()]

    def learning(self) -> list[dict]:
        """Those that only part of the page needs are of fewer seeds."""
        seeds = self.arguments.seeds
        fewer = ((LOCMOE_ONE_LEVEL, seeds[:2]), (LOCMOE_BOUND, seeds[:1]))
        for variant, some in fewer:
            self.train((variant,), some)
        records = self.train(MAIN, seeds)
        rows = loss_rows(self.harness, records, MAIN, seeds, self.arguments.steps)
        rows += tokens_rows(self.harness, records, seeds, self.arguments.steps)
        for variant, some in fewer:
            rows += loss_rows(self.harness, records, (variant,), some, self.arguments.steps)
        return rows

    def frontier(self) -> list[dict]:
        variants = tuple(variant for one in FRONTIER.values() for variant in one)
        seed = self.arguments.seeds[0]
        num_steps = self.arguments.frontier_steps
        return frontier_rows(self.harness, self.train(variants, [seed], num_steps), seed, num_steps)

    def measure(self, part: str, variants: tuple, links: list[str]):
        """Times that are compared are measured in turns: what other parts have measured does not count."""
        require_cluster(self.harness)
        measured = Measurements(self.harness, f"locality-{part}")
        on = steps.Cluster(self.harness, measured, self.trainings, self.arguments.steps, self.arguments.seeds[0])
        rates = {link: self.arguments.mbit[link] for link in links if link in self.arguments.mbit}
        rates |= on.find_rates([link for link in links if link not in rates])
        rounds = self.arguments.alone_rounds if part == "alone" else self.arguments.rounds
        return measured, steps.measure(on, variants, rates, rounds), rates

    def steps(self) -> list[dict]:
        measured, found, rates = self.measure("steps", MAIN, self.arguments.links)
        link = next(iter(rates))
        rows = steps.byte_rows(measured, found, link, MAIN) + steps.memory_rows(measured, found, link, MAIN)
        for one in rates:
            rows += steps.rows(measured, found, one, MAIN, rates)
            self.draw_losses(one, found)
        return rows + steps.best_row(measured, found, rates)

    def draw_losses(self, link: str, found: dict) -> None:
        """Of one seed over the time that they take on the cluster, as far as they have been trained."""
        records = Records(learning.RECORDS)
        lines = {}
        for variant in MAIN:
            record = records.find(learning.run_of(variant, self.arguments.seeds[0], self.arguments.steps))
            if record is None:
                return
            minutes = steps.median_step(found[link, variant.name]) / 60
            name = variant.name if variant.name != "locmoe_plus" else "~locmoe_plus, as fast as at its end"
            lines[name] = [(step * minutes, loss) for step, loss in record["curve"] if step > self.arguments.steps // 5]
        (bench.ROOT / "docs" / "images" / f"locality_time_{link}.svg").write_text(
            chart.lines(f"Validation loss over time on the cluster, links ({link})", "minutes", "nats per token", lines),
            encoding="utf-8")

    def alone(self) -> list[dict]:
        measured, found, rates = self.measure("alone", (SWITCH, *ALONE), ["b"])
        link = next(iter(rates))
        variants = (SWITCH, *ALONE)
        rows = steps.byte_rows(measured, found, link, variants) + steps.rows(measured, found, link, variants, rates)
        _, ended, _ = self.measure("steps", MAIN, [link])
        return rows + [self.harness.row(
            f"links ({link}): step of locmoe_plus, mean over a training", [steps.whole_training(ended, found)], "of switch's",
            "switch", 1.0, {"at_most": 1.0}, command=COMMAND)]

    def wall_time(self) -> list[dict]:
        """By the measurements of `steps`; how LocMoE+ begins, by those of `alone`, which are at links (b)."""
        _, found, _ = self.measure("steps", MAIN, ["b"])
        _, begun, _ = self.measure("alone", (SWITCH, *ALONE), ["b"])
        time = steps.whole_training(found, begun)
        return [wall_time_row(self.harness, self.trainings, "b", LOCMOE_PLUS, other,
                              round(self.arguments.steps * time / steps.mean_ratio(found, "b", other, SWITCH)), self.arguments)
                for other in MAIN[:2]]


def rate_of_link(text: str) -> tuple[str, float]:
    link, _, rate = text.partition("=")
    if link not in steps.SHARES:
        raise argparse.ArgumentTypeError(f"'{text}' names none of the links {', '.join(steps.SHARES)}")
    return link, float(rate)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default=str(bench.ROOT / "../shared/data/domains.jsonl.gz"))
    parser.add_argument("--build", default="build", type=pathlib.Path, help="folder of the program")
    parser.add_argument("--steps", type=int, default=600, help="of a training, 4,096 tokens each")
    parser.add_argument("--gate-steps", type=int, default=100, help="of a training of the part `gate`")
    parser.add_argument("--frontier-steps", type=int, default=100, help="of a training of the part `frontier`")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--links", nargs="+", choices=list(steps.SHARES), default=list(steps.SHARES))
    parser.add_argument("--mbit", type=rate_of_link, nargs="+", default=[], metavar="LINK=RATE",
                        help="rates that are known; those of the other --links are searched for")
    parser.add_argument("--rounds", type=int, default=2, help="trainings of each variant on the cluster, in turns")
    parser.add_argument("--alone-rounds", type=int, default=2, help="the same of the part `alone`")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--jobs", type=int, default=2, help="trainings at a time")
    arguments = parser.parse_args()
    arguments.mbit = dict(arguments.mbit)
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    if not pathlib.Path(arguments.data).exists():
        raise SystemExit(f"skipped: {arguments.data} is not there; name another JSONL file with domains by --data")
    experiment = Experiment(arguments)
    rows = bench.read_rows().get("locality", [])
    failed = []
    for part in PARTS:
        if part not in arguments.parts:
            continue
        try:
            found = getattr(experiment, part)()
        except Skipped as reason:
            bench.note(f"skipped: {part} ({reason})")
            continue
        except RuntimeError as reason:  # what is kept of it, another start takes up
            bench.note(f"FAILED: {part} ({reason})")
            failed.append(part)
            continue
        rows = [row for row in rows if row["part"] != part] + [row | {"part": part} for row in found]
        bench.write_rows("locality", rows, are_all=True)
        write_page(rows, f"On {pathlib.Path(arguments.data).name}, 4,096 tokens a step.")
    print(bench.table({"locality": rows}))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
