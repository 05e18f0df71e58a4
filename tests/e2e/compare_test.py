"""Variants over seeds: the table, what is done is not done again, budgets, and failures.

    compare_test.py build/locus
"""
import argparse
import csv
import pathlib
import signal
import subprocess
import tempfile
import time

import corpus

COMPARISON = """
[compare]
config = "run.toml"
output_dir = "compared"
seeds = [1, 2]
jobs = 2
settings = ["train.max_steps=40", "eval.interval=10", "log.router_interval=1"]
variants = [
  "switch: moe.router.type=switch",
  "dense: moe.num_experts=0",
  "grown: moe.router.type=dense_to_sparse moe.router.top_k=1 evolve.num_experts=[1] evolve.spawn_steps=[10]",
]
"""


def compare(program, folder, text, code=0):
    (folder / "compare.toml").write_text(text)
    return corpus.locus(program, "compare", "compare.toml", cwd=folder, code=code)


def rows_of(folder):
    with (folder / "compared" / "compare.csv").open() as file:
        return list(csv.DictReader(file))


def stops_with_checkpoints(program, folder):
    """A signal to the command alone: the trainings, two at a time, end with a checkpoint each."""
    (folder / "long.toml").write_text(COMPARISON.replace("max_steps=40", "max_steps=1000000").replace(
        '"compared"', '"stopped"'))
    process = subprocess.Popen([program, "compare", "long.toml"], cwd=folder, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while len(list(folder.glob("stopped/*/metrics.jsonl"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 143, process.returncode
    runs = list(folder.glob("stopped/*/metrics.jsonl"))
    assert len(runs) == 2, runs
    for run in runs:
        assert '"reason":"interrupted"' in run.read_text(), run
        assert list(run.parent.glob("checkpoints/step_*")), run


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program", type=lambda p: str(pathlib.Path(p).resolve()))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = corpus.make(args.program, name)
        out, errors = compare(args.program, folder, COMPARISON)
        assert errors.count("seed ") == 6, errors
        assert "| grown |" in out and "compared/compare.html" in out, out
        rows = rows_of(folder)
        assert [(row["variant"], row["seed"]) for row in rows] == [
            (variant, seed) for variant in ("switch", "dense", "grown") for seed in "12"], rows
        for row in rows:
            assert float(row["loss"]) > 0 and float(row["flops"]) > 0 and row["steps"] == "40", row
        assert rows[2]["experts_per_token"] == "" and float(rows[4]["experts_per_token"]) == 1, rows
        # The gate begins with all four experts: more work than Switch's one.
        assert float(rows[4]["flops"]) > 1.1 * float(rows[0]["flops"]), rows
        page = (folder / "compared" / "compare.html").read_text()
        assert page.count("<svg") == 3

        _, errors = compare(args.program, folder, COMPARISON)
        assert "seed " not in errors, errors  # all done

        compare(args.program, folder, COMPARISON.replace("[compare]", "[compare]\nequal = \"flops\""))
        rows = rows_of(folder)
        budget = float(rows[0]["flops"])
        for row in rows:
            assert abs(float(row["flops"]) / budget - 1) < 0.1, rows
        assert rows[0]["steps"] == "40" and int(rows[4]["steps"]) < 40, rows

        compare(args.program, folder, COMPARISON.replace("[compare]", "[compare]\nequal = \"active_parameters\""))
        active = [float(row["active_parameters"]) for row in rows_of(folder)]
        assert max(active) / min(active) < 1.02, active

        _, errors = compare(args.program, folder, COMPARISON.replace("num_experts=0", "num_expert=0"), code=2)
        assert "variant dense" in errors and "num_expert" in errors, errors
        _, errors = compare(args.program, folder, COMPARISON.replace("num_experts=0", "num_experts=0 data.train=[\\\"gone\\\"]"),
                            code=3)
        assert "dense, seed 1" in errors and "gone" in errors, errors
        stops_with_checkpoints(args.program, folder)
        print("compare: ok")


if __name__ == "__main__":
    main()
