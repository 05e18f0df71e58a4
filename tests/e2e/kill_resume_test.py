"""kill -9 at random moments: every resume succeeds, and the end is bit-equal to the undisturbed run.

    kill_resume_test.py build/locus [--kills 50] [--seed 1]
"""
import argparse
import json
import pathlib
import random
import subprocess
import tempfile

import corpus


def final_state(run):
    """What must not differ: the checksums of the last checkpoint, and the last training loss."""
    checkpoint = run / "checkpoints" / (run / "checkpoints" / "latest").read_text().strip()
    files = json.loads((checkpoint / "manifest.json").read_text())["files"]
    losses = [line for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
              if line["kind"] == "train"]
    return {name: files[name]["xxh128"] for name in ("model.safetensors", "optimizer.safetensors")}, losses[-1]["loss"]


def is_finished(run):
    path = run / "metrics.jsonl"
    return path.exists() and '"reason":"finished"' in path.read_text()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("program", type=lambda p: str(pathlib.Path(p).resolve()))
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    draw = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = corpus.make(args.program, name)
        # Long enough that the kills fall inside: half a second of training for each.
        corpus.locus(args.program, "train", "--config", "run.toml", "--set", "train.output_dir=probe", cwd=folder)
        end = json.loads((folder / "probe" / "metrics.jsonl").read_text().splitlines()[-1])
        steps = max(120, int(args.kills * 0.5 / (end["wall_s"] / end["step"])))
        settings = ["--config", "run.toml", "--set", f"train.max_steps={steps}"]
        corpus.locus(args.program, "train", *settings, "--set", "train.output_dir=whole", cwd=folder)
        kills = 0
        while not is_finished(folder / "run"):
            process = subprocess.Popen([args.program, "train", *settings, "--resume"], cwd=folder,
                                       stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
            try:
                process.wait(timeout=0.3 + 0.9 * draw.random() if kills < args.kills else None)
            except subprocess.TimeoutExpired:
                process.kill()
                kills += 1
            _, errors = process.communicate()
            assert process.returncode in (0, -9), f"after {kills} kills: exit code {process.returncode}\n{errors}"
        whole, disturbed = final_state(folder / "whole"), final_state(folder / "run")
        assert whole == disturbed, f"{whole}\n{disturbed}"
        assert kills >= min(args.kills, 5), f"only {kills} kills fell into the run of {steps} steps"
        print(f"{kills} kills in {steps} steps; loss {disturbed[1]!r} and all checksums equal the undisturbed run's")


if __name__ == "__main__":
    main()
