"""Sums of gradients over data-parallel ranks of an emulated cluster: how much of them the backward
pass hides, at the rate at which they alone would take 30% of a step.
"""
from __future__ import annotations

import itertools
import json
import math
import statistics
from collections.abc import Callable

from benchmarks.bench import Bench, note
from benchmarks.cluster.measured import (NUM_NODES, NUM_RANKS, RANKS_PER_NODE, Measurements, Skipped, Steps, cluster,
                                         make_data, require_cluster, run)

# Every rank has all experts: six layers of 25 MiB, and the backward pass hides the sum of one while
# it computes the next. One micro-batch a step, because only the last one's backward pass hides.
MODEL = {"model.hidden_size": 256, "model.num_hidden_layers": 6, "parallel.expert_model_parallel_size": 1,
         "train.micro_batch_size": 4, "train.global_batch_size": 4 * NUM_RANKS}
ROUNDS, STEPS, STEPS_OF_SEARCH, TURNS = 3, 5, 4, 3
SHARE, TOLERANCE, MOST_TRIES, WORST = 0.3, 0.03, 6, 0.06
MOST_CHANGE = 3.0  # of the rate, from one try to the next
HIDDEN = 0.7
WHERE = f"{NUM_NODES} nodes x {RANKS_PER_NODE}, data-parallel"
# The first rank alone is heard. The first turn is a warm-up.
TURNS_SCRIPT = f"""[ "$RANK" = 0 ] || exec > /dev/null
yes run | head -n {TURNS + 1} | "$@" """


def find_rate(alone: Callable[[float | None], float], step: Callable[[float | None], float], num_bytes: int,
              tell: Callable[[str], None] = note) -> tuple[float, list]:
    """Mbit/s at which the sums alone take SHARE of a step, and all (rate, seconds alone, step)."""
    base_s, step_s = alone(None), step(None)
    tries: list[tuple] = [(None, base_s, step_s)]
    # What a ring of ranks sends over a node's link.
    cost = 2 * (NUM_RANKS - 1) / NUM_RANKS * num_bytes * 8e-6
    slow, fast = None, None  # rates on both sides of the wanted one
    for _ in range(MOST_TRIES):
        wanted_s = SHARE * step_s - base_s
        if wanted_s <= 0:
            raise RuntimeError(f"without any limit the sums alone take {base_s / step_s:.1%} of a step")
        mbit = cost / wanted_s
        if slow and fast:
            mbit = math.sqrt(slow * fast)
        elif slow or fast:
            mbit = min(max(mbit, (slow or fast) / MOST_CHANGE), (slow or fast) * MOST_CHANGE)
        alone_s, step_s = alone(mbit), step(mbit)
        tries.append((mbit, alone_s, step_s))
        tell(f"  at {mbit:.0f} Mbit/s the sums alone take {alone_s:.3f} s, a step {step_s:.3f} s")
        if abs(alone_s / step_s - SHARE) <= TOLERANCE:
            break
        if alone_s > SHARE * step_s:
            slow = mbit
        else:
            fast = mbit
        cost = max(alone_s - base_s, 0.1 * wanted_s) * mbit
    best = min(tries[1:], key=lambda one: abs(one[1] / one[2] - SHARE))
    if abs(best[1] / best[2] - SHARE) > WORST:
        raise RuntimeError(f"no rate found at which the sums alone take {SHARE:.0%} of a step: {tries}")
    return best[0], tries


class Cluster:
    def __init__(self, bench: Bench, measured: Measurements):
        self.bench, self.measured = bench, measured
        self.data = make_data(bench)
        self.program = bench.build / "locus_bench_ranks"

    def train(self, name: str, mbit: float | None, steps: int) -> Steps:
        return self.measured.train(name, MODEL | {"data.train": [self.data], "train.max_steps": steps},
                                   cluster(mbit))

    def alone_s(self, name: str, mbit: float | None, num_bytes: int) -> float:
        """The same sums with nothing beside them: buckets as locus/train/gradient_reducer.h makes them."""
        command = [*cluster(mbit), "sh", "-c", TURNS_SCRIPT, "sh", str(self.program), "reduce",
                   'backend="gloo"', f"bytes={num_bytes}"]

        def measure() -> dict:
            lines = [json.loads(line) for line in run(command).splitlines() if line.startswith("{")]
            return {"seconds": [line["seconds"] for line in lines if "seconds" in line][1:]}

        seconds = statistics.median(self.measured.once(name, {"command": command}, measure)["seconds"])
        note(f"  {name}: {seconds:.3f} s")
        return seconds

    def find_rate(self, num_bytes: int) -> float:
        sums, steps = itertools.count(), itertools.count()

        def measure() -> dict:
            with self.measured.searching("search"):
                mbit, tries = find_rate(
                    lambda mbit: self.alone_s(f"search-alone-{next(sums)}", mbit, num_bytes),
                    lambda mbit: self.train(f"search-step-{next(steps)}", mbit, STEPS_OF_SEARCH).step_s, num_bytes)
            return {"mbit": mbit, "tries": tries}

        return self.measured.once("rate", {"launcher": cluster(None), "model": MODEL}, measure)["mbit"]


def rows(bench: Bench, measured: Measurements) -> list[dict]:
    require_cluster(bench)
    on = Cluster(bench, measured)
    if not on.program.exists():
        raise Skipped(f"{on.program} is not there")
    first = on.train("search-step-0", None, STEPS_OF_SEARCH)
    num_bytes = 4 * first.parameters
    mbit = on.find_rate(num_bytes)
    alone, steps = [], []
    for number in range(min(bench.repetitions, ROUNDS)):
        alone.append(on.alone_s(f"alone-{number}", mbit, num_bytes))
        steps.append(on.train(f"step-{number}", mbit, STEPS))
    waited = [statistics.median(one.reduce_s) for one in steps]
    where = f"{WHERE}, {mbit:.0f} Mbit/s"
    return [
        measured.row(f"{where}: sums of {num_bytes / 1e6:.0f} MB of gradients alone", alone, "s", "the step",
                     [one.step_s for one in steps]),
        measured.row(f"{where}: sums of gradients, waited for in a step", waited, "s", "the same sums alone", alone),
        measured.row(f"{where}: sums of gradients hidden behind the backward pass",
                     [1 - one / other for one, other in zip(waited, alone)], "of their time alone",
                     "all of their time alone", 1.0, {"at_least": HIDDEN})]
