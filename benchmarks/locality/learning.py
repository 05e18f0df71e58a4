"""Losses: every variant trained in one process on equal steps, with several seeds. Where its tokens travel does not
change what it learns (`locus verify` proves it), so the loss needs no cluster."""
from __future__ import annotations

import json
import pathlib
import re

from benchmarks.bench import ROOT
from benchmarks.learning.runs import Records, Run, Trainings, options, train_all
from benchmarks.locality.variants import Variant

WORK = ROOT / "runs" / "locality"
CONFIG = ROOT / "benchmarks" / "configs" / "locality.toml"
WARMUP_STEPS = 100  # of that file: too many for a short training
RECORDS = pathlib.Path(__file__).with_name("runs.json")


def run_of(variant: Variant, seed: int, steps: int) -> Run:
    settings = {"train.seed": seed, "train.max_steps": steps} | variant.model
    if steps // 4 < WARMUP_STEPS:
        settings["lr_schedule.warmup_steps"] = steps // 4
    name = re.sub(r"[^a-z0-9]+", "_", variant.name.lower())
    return Run(variant.name, seed, steps, WORK / f"trained_{steps}" / f"{name}-{seed}", tuple(options(settings)))


def record_of(run: Run) -> dict:
    """Of tokens per expert: the means of all steps and of the last tenth, as shares of those of top-1 without a
    limit."""
    def kept(since: float) -> float:
        lines = [line for line in run.lines("moe") if line["step"] > run.steps * since]
        tokens = run.lines("run")[0]["tokens_per_step"]
        return sum(sum(line["tokens_per_expert"]) for line in lines) / (tokens * len(lines))

    score = json.loads((run.folder / "eval.json").read_text(encoding="utf-8"))
    # By the rule of training, under which an expert takes as few tokens as there.
    batch_loss = score.get("batch_rule", score)["loss"]
    return run.record() | {"batch_loss": batch_loss, "kept_mean": kept(0.0), "kept_end": kept(0.9)}


def train(trainings: Trainings, variants: tuple[Variant, ...], seeds: list[int], steps: int, jobs: int) -> Records:
    """Seed by seed, so that a first comparison is there early."""
    records = Records(RECORDS)
    runs = [run_of(variant, seed, steps) for seed in seeds for variant in variants]
    train_all(trainings, records, runs, jobs, record_of)
    return records
