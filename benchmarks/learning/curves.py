#!/usr/bin/env python3
"""Do Locus and transformers learn the same? Both train from the same weights on the same batches
with the same AdamW; the losses of each step are compared.

Writes benchmarks/results/curves.json, docs/images/curves_<shape>.svg and, of the differences,
curves_<shape>_apart.svg, and the curves themselves to runs/learning/curves_<shape>.json.
About twenty minutes on two cores.
"""
from __future__ import annotations

import argparse
import array
import json
import pathlib
import statistics
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2]))
from benchmarks import bench, run  # noqa: E402: the tree first
from benchmarks.batches import cosine, write_batches  # noqa: E402
from benchmarks.learning import chart  # noqa: E402

SEQUENCES, LENGTH = 8, 256
GOAL = 1e-3  # nats, float32
TAIL = 20  # steps at the end whose mean loss is compared, too
LOCUS, PEER = "Locus fp32", "transformers fp32"
LOCUS_BF16, PEER_BF16 = "Locus bf16", "transformers bf16 autocast"
# The same peer with another kernel for its experts: what rounding alone does to routed tokens.
CONTROL = "transformers fp32, eager experts"
PAIRS = [(LOCUS, PEER), (CONTROL, PEER), (LOCUS_BF16, PEER_BF16), (LOCUS_BF16, LOCUS), (PEER_BF16, PEER)]
COMMAND = "python3 benchmarks/learning/curves.py"


def corpus(program: pathlib.Path, text: str) -> pathlib.Path:
    """The training tokens of a dataset that is made once: uint16, for the vocabulary is small."""
    folder = bench.ROOT / "runs" / "learning" / "data"
    if not (folder / "dataset.json").exists():
        if not pathlib.Path(text).exists():
            raise SystemExit(f"{text} is not there: name a text with --text")
        subprocess.run([program, "prepare", "--output", folder, "--vocab-size", "8192", text],
                       check=True)
    return folder / "train.bin"


def read_tokens(path: pathlib.Path, count: int) -> array.array:
    tokens = array.array("H")
    with open(path, "rb") as file:
        tokens.frombytes(file.read(2 * count))
    return tokens


def train(shape: str, steps: int, tokens: pathlib.Path, build: pathlib.Path,
          python: str) -> tuple[bench.Bench, dict[str, bench.Measured]]:
    harness = bench.Bench("curves", build, python)
    config = bench.ROOT / "benchmarks" / "configs" / f"{shape}.toml"
    weights = harness.scratch / shape
    batches = write_batches(harness.scratch / f"{shape}.safetensors",
                            read_tokens(tokens, steps * SEQUENCES * LENGTH + 1), steps, SEQUENCES,
                            LENGTH, cosine(steps, steps // 10, 1e-3, 1e-4))
    saved = harness.measure([harness.peer("the first weights", "save_model", config=config,
                                          output=weights)], 1, 0)
    if not saved:
        raise SystemExit("without transformers there is nothing to compare with")
    both = {"config": config, "batches": batches, "weights": weights}
    workers = [harness.ours(LOCUS, "train_step", **both),
               harness.peer(PEER, "train_step", "tuned", **both),
               harness.ours(LOCUS_BF16, "train_step", train__dtype="bfloat16", **both),
               harness.peer(PEER_BF16, "train_step", "tuned", precision="autocast", **both)]
    if shape == "olmoe":
        workers.append(harness.peer(CONTROL, "train_step", "tuned", experts="eager", **both))
    return harness, harness.measure(workers, repetitions=steps, warmup=0)


def compare(harness: bench.Bench, shape: str, measured: dict[str, bench.Measured]) -> list[dict]:
    def row(ours: str, theirs: str, goal: dict | None) -> dict:
        pairs = list(zip(measured[ours].series("loss"), measured[theirs].series("loss")))
        apart = [abs(a - b) for a, b in pairs]
        tails = [statistics.mean(losses[-TAIL:]) for losses in zip(*pairs)]
        out = harness.row(
            f"{shape}: largest difference of the loss in {len(pairs)} steps, {ours}", [max(apart)],
            "nats", theirs, GOAL, goal, [measured[ours], measured[theirs]],
            mean_difference=bench.significant(statistics.mean(apart)),
            at_step=apart.index(max(apart)) + 1,
            last_losses=dict(zip((ours, theirs), map(bench.significant, tails))))
        # The ratio is to the bound of 1e-3 nats.
        return out | {"command": COMMAND, "quartiles": [bench.significant(q / GOAL)
                                                        for q in bench.quartiles(apart)]}

    return [row(*pair, {"at_most": 1.0} if pair == (LOCUS, PEER) else None)
            for pair in PAIRS if set(pair) <= set(measured)]


def draw(shape: str, losses: dict[str, list[float]]) -> None:
    images = bench.ROOT / "docs" / "images"
    images.mkdir(exist_ok=True)
    dashed = {"~" * name.startswith("transformers") + name: list(enumerate(one, 1))
              for name, one in losses.items()}
    (images / f"curves_{shape}.svg").write_text(
        chart.lines(f"Same weights, batches and AdamW: {shape} shape", "step",
                    "training loss, nats per token", dashed), encoding="utf-8")
    apart = {f"{ours} - {theirs}":
             [(step, abs(a - b))
              for step, (a, b) in enumerate(zip(losses[ours], losses[theirs]), 1)]
             for ours, theirs in PAIRS if {ours, theirs} <= set(losses)}
    (images / f"curves_{shape}_apart.svg").write_text(
        chart.lines(f"How far the losses are apart: {shape} shape", "step",
                    "nats per token, absolute", apart, log=True), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--build", default="build")
    parser.add_argument("--python", default=run.find_python(), help="that has the peers")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--shape", choices=("olmoe", "gpt2"), help="one of them alone")
    parser.add_argument("--text", default=str(bench.ROOT / "../shared/data/domains.jsonl.gz"))
    arguments = parser.parse_args()
    build = pathlib.Path(arguments.build).resolve()
    tokens = corpus(build / "locus", arguments.text)
    shapes = [arguments.shape] if arguments.shape else ["olmoe", "gpt2"]
    rows = [row for row in bench.read_rows().get("curves", [])
            if row["what"].split(":")[0] not in shapes]
    for shape in shapes:
        harness, measured = train(shape, arguments.steps, tokens, build, arguments.python)
        losses = {name: one.series("loss") for name, one in measured.items()}
        (bench.ROOT / "runs" / "learning" / f"curves_{shape}.json").write_text(json.dumps(losses))
        rows += compare(harness, shape, measured)
        draw(shape, losses)
    bench.write_rows("curves", rows)
    print(bench.table({"curves": rows}))


if __name__ == "__main__":
    main()
