"""Trainings whose losses are compared: done once, taken up where they stopped, their outcomes kept in a
file, so that the work may be spread over days and machines."""
from __future__ import annotations

import concurrent.futures
import dataclasses
import datetime
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import threading

from benchmarks import bench


# Trainings of fewer steps are evaluated on a part of the data: it would take as long as they do.
SHORT_STEPS, SHORT_BATCHES = 150, 40


@dataclasses.dataclass(frozen=True)
class Run:
    """One training. `settings`: what makes the model and its training, as `--set` options."""
    name: str
    seed: int
    steps: int
    folder: pathlib.Path
    settings: tuple[str, ...]

    def beside(self, ending: str) -> pathlib.Path:
        """A file of its own beside the folder."""
        return self.folder.with_name(self.folder.name + ending)

    def lines(self, kind: str) -> list[dict]:
        path = self.folder / "metrics.jsonl"
        if not path.exists():
            return []
        found = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        # A run that was stopped has done the steps since its checkpoint again: the last line of each counts.
        latest = {(line["step"], line.get("layer")): line for line in found if line["kind"] == kind}
        return sorted(latest.values(), key=lambda line: line["step"])

    def is_trained(self) -> bool:
        return any(line["reason"] == "finished" for line in self.lines("end"))

    def mean(self, key: str, since: float = 0.0) -> float:
        """Over all layers and the steps after this share of them."""
        values = [line[key] for line in self.lines("moe") if line["step"] > self.steps * since]
        return statistics.mean(values) if values else 0.0

    def record(self) -> dict:
        """What a finished run says."""
        score = json.loads((self.folder / "eval.json").read_text(encoding="utf-8"))
        shape = self.lines("run")[0]
        return {
            "name": self.name, "seed": self.seed, "steps": self.steps, "settings": list(self.settings),
            "loss": score["loss"],
            "by_domain": {name: one["loss"] for name, one in sorted(score.get("by_domain", {}).items())},
            "max_over_mean_load": self.mean("load_max_over_mean", 0.9),
            "dropped_share": self.mean("dropped_share", 0.9),
            "parameters": shape["parameters"], "active_parameters": shape["active_parameters"],
            "wall_s": sum(line["wall_s"] for line in self.lines("end")),
            "curve": [(line["step"], line["loss"]) for line in self.lines("valid")],
            "machine": bench.machine(), "date": datetime.date.today().isoformat()}


class Records:
    """Of all finished runs; one counts only for the settings that it was made with."""

    def __init__(self, path: pathlib.Path):
        self.path, self.lock = path, threading.Lock()
        self.all = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []

    def find(self, run: Run) -> dict | None:
        return next((one for one in self.all if (one["name"], one["seed"], one["steps"]) == (
            run.name, run.seed, run.steps) and one["settings"] == list(run.settings)), None)

    def add(self, record: dict) -> None:
        with self.lock:
            if self.path.exists():  # another driver may have added some
                self.all = json.loads(self.path.read_text(encoding="utf-8"))
            self.all.append(record)
            self.all.sort(key=lambda one: (one["steps"], one["name"], one["seed"]))
            text = ",\n".join(json.dumps(one) for one in self.all)
            partial = self.path.with_suffix(".partial")
            partial.write_text(f"[\n{text}\n]\n", encoding="utf-8")
            partial.rename(self.path)


class Trainings:
    """The program, the configuration and the data of all runs."""

    def __init__(self, build: str, config: pathlib.Path, data: pathlib.Path, threads: int = 1, eval_batches: int = 0):
        """`eval_batches`: of the validation data, evenly spread, that losses are of; 0: all."""
        self.program = str(pathlib.Path(build).resolve() / "locus")
        self.config, self.data, self.threads, self.eval_batches = config, data, threads, eval_batches
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

    def prepare(self, text: pathlib.Path, vocab_size: int = 4096) -> None:
        if (self.data / "dataset.json").exists():
            return
        bench.note(f"preparing {text}")
        self.call("prepare", "--output", self.data, "--vocab-size", vocab_size, "--valid-share", 0.02,
                  "--test-share", 0, text)

    def places(self, run: Run) -> list[str]:
        """What changes no result."""
        return options({
            "data.train": [str(self.data)], "train.output_dir": str(run.folder),
            "train.num_threads": self.threads, "checkpoint.interval": max(run.steps // 4, 1),
            "checkpoint.keep_last": 1, "eval.interval": max(run.steps // 10, 1),
            "eval.max_batches": 8})

    def finish(self, run: Run) -> None:
        """Trains and evaluates what is not done yet."""
        self.train(run)
        batches = self.eval_batches or (SHORT_BATCHES if run.steps < SHORT_STEPS else 0)
        self.call("eval", "--checkpoint", run.folder, "--split", "valid", "--num-threads", self.threads,
                  "--max-batches", batches, "--output", run.folder / "eval.json", log=run.beside(".log"))

    def train(self, run: Run) -> None:
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        log, made_by = run.beside(".log"), run.beside(".settings.json")
        settings = json.dumps(run.settings)
        if not made_by.exists() or made_by.read_text(encoding="utf-8") != settings:
            shutil.rmtree(run.folder, ignore_errors=True)  # of other settings
            made_by.write_text(settings, encoding="utf-8")
        if not run.is_trained():
            resume = ["--resume"] if (run.folder / "checkpoints" / "latest").exists() else []
            if not resume:  # stopped before its first checkpoint
                shutil.rmtree(run.folder, ignore_errors=True)
            self.call("train", "--config", self.config, *resume, *run.settings, *self.places(run), log=log)


def options(values: dict) -> list[str]:
    return [word for key, value in values.items()
            for word in ("--set", f"{key}={json.dumps(value)}")]


def train_all(trainings: Trainings, records: Records, runs: list[Run], jobs: int, record_of=Run.record) -> None:
    """`record_of` makes of a finished run what is kept of it."""
    waiting = [run for run in runs if records.find(run) is None]
    bench.note(f"{len(runs) - len(waiting)} of {len(runs)} runs are done already")

    def finish(run: Run) -> dict:
        trainings.finish(run)
        return record_of(run)

    with concurrent.futures.ThreadPoolExecutor(jobs) as pool:
        started = [pool.submit(finish, run) for run in waiting]
        try:
            for future in concurrent.futures.as_completed(started):
                record = future.result()
                records.add(record)
                bench.note(f"{record['name']}, seed {record['seed']}: validation loss "
                           f"{record['loss']:.4f}")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
