"""Steps on an emulated cluster: exchange x parts x rate of the links.

The middle rate is that at which `flat` in one part waits for rows 30% of the step. What another
exchange waits less, in the same round at the same rate, it has removed or hidden.
"""
from __future__ import annotations

import itertools
import pathlib
import statistics
from collections.abc import Callable

from benchmarks.bench import Bench, note
from benchmarks.cluster.measured import (NUM_NODES, NUM_RANKS, RANKS_PER_NODE, Measurements, Steps,
                                         balanced_settings, cluster, measured_topology, parts_text,
                                         require_cluster)

ROUNDS, STEPS, STEPS_OF_SEARCH = 3, 8, 6
ROUNDS_BESIDE = 1  # at the rates beside the middle one
SHARE, TOLERANCE, MOST_TRIES = 0.3, 0.015, 6
# A rate further off than this is none; links as fast as these are not there.
WORST, FASTEST_MBIT = 0.05, 20_000
FLAT, AUTO = ("flat", 1), ("auto", 0)
CONFIGURATIONS = (FLAT, ("flat", 4), ("hierarchical", 1), ("hierarchical", 4), ("dedup", 1), ("dedup", 4), AUTO)
# By the middle rate.
LINKS = {"half": 0.5, "middle": 1.0, "double": 2.0}
WHERE = f"{NUM_NODES} nodes x {RANKS_PER_NODE}"
HIDDEN = 0.6
# Experts so wide that a row of the exchange costs to compute what it does in a model of some thousand
# channels: with narrow ones it is the copies of rows that use up a rank's share of the cores.
WIDE = {"moe.intermediate_size": 2048}


def find_rate(measure: Callable[[float | None], Steps], tell: Callable[[str], None] = note,
              share: float = SHARE, most_tries: int = MOST_TRIES) -> tuple[float, list]:
    """Mbit/s at which `measure` waits `share` of its step, and all (rate, step, waited, share).

    The links add c / rate to what a step takes without a limit, of which some is spent waiting, too
    (for slower ranks): each try says a better c.
    """
    free = measure(None)
    tries = [(None, free.step_s, free.waited_s, free.waited_share)]
    wanted_s = (share * free.step_s - free.waited_s) / (1 - share)
    if wanted_s <= 0:
        raise RuntimeError(f"without any limit the ranks wait {free.waited_share:.1%} of a step for each other: "
                           "is the machine busy?")
    cost = statistics.median(free.exchange["inter_bytes"]) / NUM_NODES * 8e-6  # Mbit of a node's link
    for _ in range(most_tries):
        mbit = min(secant(tries[1:], share) or cost / wanted_s, FASTEST_MBIT)
        found = measure(mbit)
        tries.append((mbit, found.step_s, found.waited_s, found.waited_share))
        tell(f"  at {mbit:.0f} Mbit/s the exchange takes {found.waited_share:.1%} of {found.step_s:.3f} s")
        if abs(found.waited_share - share) <= TOLERANCE:
            break
        # At least: noise must not turn the search around.
        cost = max(found.waited_s - free.waited_s, 0.1 * wanted_s) * mbit
    best = min(tries[1:], key=lambda one: abs(one[3] - share))
    if abs(best[3] - share) > WORST:
        raise RuntimeError(f"no rate found at which flat waits {share:.0%} of a step: {tries}")
    return best[0], tries


def secant(tries: list, share: float) -> float | None:
    """The rate that a line of shares over 1 / rate through the last two tries puts at `share`. More of a step than
    what it waits for rows grows with 1 / rate, so this comes nearer than one try alone."""
    if len(tries) < 2:
        return None
    (rate_a, _, _, share_a), (rate_b, _, _, share_b) = tries[-2:]
    slope = (share_b - share_a) / (1 / rate_b - 1 / rate_a) if rate_a != rate_b else 0
    inverse = 1 / rate_b + (share - share_b) / slope if slope > 0 else 0
    return 1 / inverse if inverse > 0 else None


class Cluster:
    def __init__(self, bench: Bench, measured: Measurements):
        self.bench, self.measured = bench, measured
        self.model = balanced_settings(bench, WIDE)

    def train(self, name: str, mbit: float | None, configuration: tuple[str, int], steps: int,
              topology: pathlib.Path | None = None) -> Steps:
        exchange, chunks = configuration
        links = {"comm.topology": str(topology)} if topology else {}
        return self.measured.train(name, self.model | {
            "train.max_steps": steps, "parallel.expert_model_parallel_size": NUM_RANKS,
            "parallel.exchange.type": exchange, "parallel.exchange.chunks": chunks} | links, cluster(mbit))

    def find_rate(self) -> float:
        """Searched for once; every try is kept as well."""
        number = itertools.count()

        def measure() -> dict:
            with self.measured.searching("search"):
                mbit, tries = find_rate(lambda mbit: self.train(f"search-{next(number)}", mbit, FLAT, STEPS_OF_SEARCH))
            return {"mbit": mbit, "tries": tries}

        return self.measured.once("rate", {"launcher": cluster(None), "model": self.model}, measure)["mbit"]


def turned(what: tuple, by: int) -> tuple:
    by %= len(what)
    return what[by:] + what[:by]


def measure_rounds(on: Cluster, rates: dict[str, float]) -> tuple[dict, list[Steps]]:
    """{(link, configuration): a training for each round}, and those without a limit."""
    files = {link: measured_topology(on.measured, link, mbit) for link, mbit in rates.items()}
    found, free = {}, []
    for number in range(min(on.bench.repetitions, ROUNDS)):
        free.append(on.train(f"free-{number}", None, FLAT, STEPS))
        links = tuple(rates) if number < ROUNDS_BESIDE else ("middle",)
        for link in turned(links, number):
            for one in turned(CONFIGURATIONS, number * 3):
                steps = on.train(f"{link}-{one[0]}-{one[1]}-{number}", rates[link], one, STEPS,
                                 files[link] if one == AUTO else None)
                found.setdefault((link, one), []).append(steps)
    return found, free


def hidden(steps: list[Steps], flat: list[Steps]) -> list[float]:
    """Of what flat waits, by rounds."""
    return [1 - one.waited_s / other.waited_s for one, other in zip(steps, flat, strict=True)]


def name_of(configuration: tuple[str, int], steps: list[Steps]) -> str:
    exchange, chunks = configuration
    if configuration != AUTO:
        return f"{exchange}, {parts_text(chunks)}"
    return f"auto ({' / '.join(sorted({one.chosen for one in steps}))})"


def table_rows(measured: Measurements, found: dict, link: str, mbit: float) -> list[dict]:
    flat = found[link, FLAT]
    out = []
    for one in CONFIGURATIONS:
        steps = found[link, one]
        waited = statistics.median(s.waited_share for s in steps)
        removed = statistics.median(hidden(steps, flat))
        out.append(measured.row(
            f"{WHERE}, {mbit:.0f} Mbit/s: step, {name_of(one, steps)}", [s.step_s for s in steps], "s",
            "flat, 1 part", [s.step_s for s in flat], waited_share=waited, hidden_or_removed=removed,
            bytes_between_nodes=statistics.median(s.exchange["inter_bytes"][-1] for s in steps)))
        note(f"    waits {waited:.1%} of it for rows: {removed:.0%} of what flat waits hidden or removed")
    return out


def rows(bench: Bench, measured: Measurements) -> list[dict]:
    require_cluster(bench)
    on = Cluster(bench, measured)
    middle = on.find_rate()
    rates = {link: middle * factor for link, factor in LINKS.items()}
    found, free = measure_rounds(on, rates)
    out = [measured.row(f"{WHERE}, no limit: step, flat, 1 part", [s.step_s for s in free], "s",
                        waited_share=statistics.median(s.waited_share for s in free))]
    for link, mbit in rates.items():
        out += table_rows(measured, found, link, mbit)
    auto, flat = found["middle", AUTO], found["middle", FLAT]
    out.append(measured.row(
        f"{WHERE}, {middle:.0f} Mbit/s: share of the step that waits for rows, flat, 1 part",
        [s.waited_share for s in flat], "of the step"))
    out.append(measured.row(
        f"{WHERE}, {middle:.0f} Mbit/s: hidden or removed by {name_of(AUTO, auto)}", hidden(auto, flat),
        "of what flat waits", "all that flat, 1 part, waits", 1.0, {"at_least": HIDDEN}))
    # The same seen from the step's end: what a limit costs.
    costs = [(one.step_s - none.step_s) / (other.step_s - none.step_s)
             for one, other, none in zip(auto, flat, free, strict=True)]
    out.append(measured.row(
        f"{WHERE}, {middle:.0f} Mbit/s: what the links add to a step, {name_of(AUTO, auto)}", costs,
        "of what they add to flat's", "what they add to a step of flat, 1 part", 1.0))
    return out
