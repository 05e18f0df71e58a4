"""How long a user waits: for `locus --help`, and for the first training step of the demo."""
import json
import shutil
import sys

from benchmarks.bench import ROOT, Bench, Worker

HELP_S, STEP_S = 0.1, 3.0


def command(name: str, arguments: list[str], **settings) -> Worker:
    extras = [f"{key}={value}" for key, value in settings.items()]
    return Worker(name, [sys.executable, "-m", "benchmarks.peers.command",
                         f"command={json.dumps(arguments)}", *extras])


def demo_data(bench: Bench) -> str:
    """The corpus of `make demo`, or a small one out of this tree."""
    demo = ROOT / "runs" / "demo-data"
    if (demo / "dataset.json").exists():
        return str(demo)
    small = str(bench.scratch / "data")
    prepare = [bench.program, "prepare", "--output", small, "--overwrite", "--vocab-size", "4096",
               str(ROOT / "locus"), str(ROOT / "docs"), str(ROOT / "tests")]
    bench.measure([command("a corpus out of this tree", prepare)], repetitions=1, warmup=0)
    return small


def run(bench: Bench) -> list[dict]:
    shown = bench.measure([command("locus --help", [bench.program, "--help"])], repetitions=21)
    shown = shown["locus --help"]
    output = bench.scratch / "run"
    train = [bench.program, "train", "--config", str(ROOT / "configs" / "top_k.toml"),
             "--set", f'data.train=["{demo_data(bench)}"]', "--set", f"train.output_dir={output}",
             "--set", "log.interval=1"]
    step = bench.measure([command("first step", train, until="iteration", remove=output)])
    step = step["first step"]
    shutil.rmtree(output, ignore_errors=True)
    return [
        bench.row("locus --help, wall", shown.series(), "s", f"{HELP_S} s", HELP_S,
                  {"at_most": 1.0}),
        bench.row("locus --help, CPU", shown.series("child_cpu_seconds"), "s"),
        bench.row("configs/top_k.toml: process start to the end of the first step", step.series(), "s",
                  f"{STEP_S:g} s", STEP_S, {"at_most": 1.0})]
