"""One rank against an older program: what many ranks need must cost a single one nothing."""
from __future__ import annotations

import pathlib

from benchmarks.bench import ROOT, THREADS, Bench
from benchmarks.cluster.measured import Measurements, Skipped
from benchmarks.themes.start import demo_data

STEPS = 12
CONFIG = ROOT / "configs" / "top_k.toml"


def rows(bench: Bench, measured: Measurements) -> list[dict]:
    if bench.baseline is None:
        raise Skipped("--baseline names no folder with an older locus")
    old = pathlib.Path(bench.baseline).resolve() / "locus"
    if not old.exists():
        raise Skipped(f"{old} is not there")
    settings = {"data.train": [demo_data(bench)], "train.max_steps": STEPS, "train.num_threads": THREADS,
                "log.interval": 1, "checkpoint.interval": 0, "eval.max_batches": 1}
    programs = {"ours": bench.program, "baseline": str(old)}
    found = {name: [] for name in programs}
    for number in range(bench.repetitions):
        for name in list(programs)[::1 if number % 2 == 0 else -1]:
            found[name].append(measured.train(f"{name}-{number}", settings, program=programs[name],
                                              config=CONFIG).step_s)
    return [measured.row("one rank, configs/top_k.toml: step", found["ours"], "s", "the older program", found["baseline"],
                         {"at_most": 1.02},
                         command="python3 benchmarks/run.py --theme cluster --baseline FOLDER")]
