"""Step times on an emulated cluster, at the rates of links at which Switch with a flat exchange waits for rows as
long as the paper's system did: 18% of a step (its 128 devices), 29% (256), and 50%."""
from __future__ import annotations

import itertools
import pathlib
import statistics

from benchmarks.bench import Bench, note
from benchmarks.cluster import step_time
from benchmarks.cluster.measured import NUM_RANKS, Measurements, Steps, cluster, measured_topology
from benchmarks.learning.runs import Trainings
from benchmarks.locality.learning import CONFIG, run_of
from benchmarks.locality.variants import (ALONE, LOCMOE_PLUS, LOCMOE_PLUS_AT_FIRST, MAIN, SHIFTED_SHARE, SWITCH,
                                          Variant)

SHARES = {"a": 0.18, "b": 0.29, "c": 0.50}
# Counts of domains are taken up at every fourth step and count from three steps on; with two rounds there are 54
# steps of each variant. One micro-batch a step, so that ranks wait for each other seldom but for the rows.
WARMUP, STEPS = 8, 27
MOST_TRIES = 4  # of a rate: minutes each; up to step_time.WORST beside the wanted share will do
COMMAND = "make bench-locality"
PER_RANK = {"train.micro_batch_size": 8, "train.global_batch_size": 64, "data.prefetch": 1,
            "parallel.expert_model_parallel_size": NUM_RANKS, "lr_schedule.lr": 1e-5, "lr_schedule.min_lr": 1e-6,
            "log.interval": 1, "log.router_interval": 4, "log.domain_interval": 4, "checkpoint.interval": 0,
            "eval.max_batches": 1, "comm.timeout_s": 120}


class Cluster:
    def __init__(self, bench: Bench, measured: Measurements, trainings: Trainings, steps_trained: int, seed: int):
        self.bench, self.measured, self.trainings = bench, measured, trainings
        self.steps_trained, self.seed = steps_trained, seed

    def weights_of(self, variant: Variant) -> pathlib.Path:
        """Trained here if they are not there: their losses may have been found on another machine."""
        origin = next(one for one in (*MAIN, *ALONE) if one.name == variant.weights)
        run = run_of(origin, self.seed, self.steps_trained)
        self.trainings.train(run)
        return run.folder

    def settings_of(self, variant: Variant) -> dict:
        return (variant.model | variant.at_the_end | variant.links | PER_RANK |
                {"data.train": [str(self.trainings.data)], "train.max_steps": WARMUP + STEPS,
                 "checkpoint.initial_load_path": str(self.weights_of(variant))})

    def train(self, name: str, mbit: float | None, variant: Variant, topology: pathlib.Path | None = None) -> Steps:
        known = {"comm.topology": str(topology)} if topology and variant.chooses_exchange else {}
        return self.measured.train(name, self.settings_of(variant) | known, cluster(mbit), config=CONFIG, warmup=WARMUP)

    def find_rates(self, links: list[str]) -> dict[str, float]:
        """Without those that there is no rate for: where ranks wait long for each other, a small share is out of reach."""
        found = {}
        for link in links:
            try:
                found[link] = self.find_rate(link)
            except RuntimeError as reason:
                note(f"  links ({link}) are left out: {reason}")
        if links and not found:
            raise RuntimeError(f"no rate of links was found, of {', '.join(links)}")
        return found

    def find_rate(self, link: str) -> float:
        number = itertools.count()

        def measure() -> dict:
            with self.measured.searching(f"search-{link}"):
                mbit, tries = step_time.find_rate(
                    lambda mbit: self.train(f"search-{link}-{next(number)}", mbit, SWITCH), share=SHARES[link],
                    most_tries=MOST_TRIES)
            return {"mbit": mbit, "tries": tries}

        key = {"launcher": cluster(None), "share": SHARES[link], "model": self.settings_of(SWITCH),
               "config": CONFIG.read_text(encoding="utf-8")}
        return self.measured.once(f"rate-{link}", key, measure)["mbit"]


def measure(on: Cluster, variants: tuple[Variant, ...], rates: dict[str, float], rounds: int) -> dict:
    """{(link, variant): a training for each round}"""
    for variant in variants:
        on.weights_of(variant)  # not between the turns
    found: dict = {}
    files = {link: measured_topology(on.measured, link, mbit) for link, mbit in rates.items()}
    for number in range(rounds):
        for link in step_time.turned(tuple(rates), number):
            for variant in step_time.turned(variants, number):
                steps = on.train(f"{link}-{variant.name.replace(' ', '_')}-{number}", rates[link], variant,
                                 files[link])
                found.setdefault((link, variant.name), []).append(steps)
    note(f"  rates: {', '.join(f'{link} {mbit:.0f} Mbit/s' for link, mbit in rates.items())}")
    return found


def told_name(variant: Variant) -> str:
    """A variant that changes over a training is measured as it is at the end of one."""
    return f"{variant.name} at its end" if variant.name == "locmoe_plus" else variant.name


def joined(rounds: list[Steps]) -> list[float]:
    """Seconds of every step of all rounds."""
    return [seconds for one in rounds for seconds in one.seconds]


def inter_bytes(rounds: list[Steps]) -> list[float]:
    return [statistics.mean(one.exchange["inter_bytes"]) for one in rounds]


def rows(measured: Measurements, found: dict, link: str, variants: tuple[Variant, ...],
         rates: dict[str, float]) -> list[dict]:
    base = found[link, SWITCH.name]
    out = []
    for variant in variants:
        rounds = found[link, variant.name]
        goal = {"at_most": 0.70} if link == "b" and variant.name == "locmoe" else None
        if variant.name == "locmoe_plus":
            goal = {"at_most": 1.0}  # never slower; the half of it is asked for at one rate: best_row
        waited = statistics.median(share for one in rounds for share in
                                   (w / s for w, s in zip(one.waited, one.seconds)))
        out.append(measured.row(
            f"links ({link}, {rates[link]:.0f} Mbit/s): step, {told_name(variant)}", [one.step_s for one in rounds], "s", "switch",
            [one.step_s for one in base], goal, waited_share=waited, steps=len(joined(rounds)),
            chosen=sorted({one.chosen for one in rounds}), command=COMMAND))
    return out


def best_row(measured: Measurements, found: dict, rates: dict[str, float]) -> list[dict]:
    """LocMoE+ where it gains most, of the rates at which Switch waits 29% and more."""
    def ratio(link: str) -> float:
        return median_step(found[link, "locmoe_plus"]) / median_step(found[link, SWITCH.name])

    slow = [link for link in rates if link != "a"]
    if not slow:
        return []
    link = min(slow, key=ratio)
    return [measured.row(f"step of locmoe_plus at its end, where it gains most: links ({link})",
                         [one.step_s for one in found[link, "locmoe_plus"]], "s", "switch",
                         [one.step_s for one in found[link, SWITCH.name]], {"at_most": 0.50}, command=COMMAND)]


def median_step(rounds: list[Steps]) -> float:
    return statistics.median(joined(rounds))


def mean_ratio(found: dict, link: str, variant: Variant, base: Variant) -> float:
    """Of the times of many steps."""
    return statistics.mean(joined(found[link, variant.name])) / statistics.mean(joined(found[link, base.name]))


def whole_training(ended: dict, begun: dict) -> float:
    """Of LocMoE+, the time of a training in that of Switch, at links (b): as it is before it takes fewer tokens and at
    its end, and on a straight way between them."""
    at_first = mean_ratio(begun, "b", LOCMOE_PLUS_AT_FIRST, SWITCH)
    return SHIFTED_SHARE * mean_ratio(ended, "b", LOCMOE_PLUS, SWITCH) + (1 - SHIFTED_SHARE) * at_first


def byte_rows(measured: Measurements, found: dict, link: str, variants: tuple[Variant, ...]) -> list[dict]:
    base = inter_bytes(found[link, SWITCH.name])
    goals = {"locmoe": {"at_most": 0.30}, "switch, sequences and experts placed": {"at_most": 0.75}}
    return [measured.row(
        f"bytes between nodes a step, {told_name(variant)}", inter_bytes(found[link, variant.name]), "bytes", "switch", base,
        goals.get(variant.name), command=COMMAND) for variant in variants]


def memory_rows(measured: Measurements, found: dict, link: str, variants: tuple[Variant, ...]) -> list[dict]:
    """Of the rank that needs most, the program's own 200 MB or so included."""
    base = [one.peak_rss_bytes / 2**20 for one in found[link, SWITCH.name]]
    goals = {"locmoe_plus": {"at_most": 0.80}}
    return [measured.row(
        f"most resident memory of a rank, {told_name(variant)}",
        [one.peak_rss_bytes / 2**20 for one in found[link, variant.name]], "MiB", "switch", base,
        goals.get(variant.name), command=COMMAND) for variant in variants]
