"""A run that has been trained, and the models that `locus extract` takes out of it, each once."""
from __future__ import annotations

import json
import pathlib
import subprocess
import time

from benchmarks import bench
from benchmarks.learning.runs import Run

EVAL_BATCHES = 40  # of 8 sequences, evenly spread over the validation data, that all losses are of


def newest(run: Run) -> pathlib.Path:
    return sorted((run.folder / "checkpoints").glob("step_*"))[-1]


class Family:
    """A run that has been trained, and what is taken out of it."""

    def __init__(self, program: str, run: Run, eval_batches: int = EVAL_BATCHES):
        self.program, self.run, self.eval_batches = program, run, eval_batches

    def member(self, limit: str, rule: str = "auto", domain: str = "", is_timed: bool = False) -> dict:
        """The record of `locus extract`; made once. `is_timed`: with the seconds that it took, while nothing else runs."""
        parts = [self.run.folder.name, limit.replace("=", "_"), *([] if rule == "auto" else [rule]), *([domain] if domain else [])]
        name = "-".join(parts)
        folder = self.run.folder.with_name(name)
        kept = folder.with_name(name + ".made.json")
        made_by = [*self.run.settings, str(self.eval_batches)]  # of another training it would be another model
        made = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
        if made.get("by") != made_by or (is_timed and made["seconds"] is None):
            kept.unlink(missing_ok=True)
            subprocess.run(["rm", "-rf", folder, folder.with_name(name + ".eval.json")], check=True)
            begin = time.monotonic()
            subprocess.run([self.program, "extract", self.run.folder, "--budget", limit, "--rule", rule, "--domain", domain,
                            "--output", folder, "--num-threads", "1", "--max-batches", str(self.eval_batches)],
                           cwd=bench.ROOT, check=True, capture_output=True)
            made = {"seconds": time.monotonic() - begin if is_timed else None, "by": made_by}
            kept.write_text(json.dumps(made) + "\n", encoding="utf-8")
        record = json.loads((folder / "extract.json").read_text(encoding="utf-8"))
        return record | {"folder": folder, "seconds": made["seconds"]}

    def loss(self, limit: str, rule: str = "auto") -> float:
        return self.member(limit, rule)["validation_loss"]

    def shape(self, limit: str, rule: str) -> dict:
        """The settings of that model's shape, to train it alone."""
        config = json.loads((self.member(limit, rule)["folder"] / "config.json").read_text(encoding="utf-8"))
        lists = dict(setting.split(" = ", 1) for setting in config["locus"]["settings"])
        return {key: json.loads(value) for key, value in lists.items() if key.endswith("_per_layer")}
