"""A small corpus, a data set and a settings file that train in a second, for the end-to-end tests."""
import json
import pathlib
import random
import subprocess

SETTINGS = """
[model]
hidden_size = 32
num_hidden_layers = 2
num_attention_heads = 4
max_position_embeddings = 64
hidden_dropout = 0.1

[moe]
num_experts = 4
intermediate_size = 48

[data]
train = ["data"]
sequence_length = 32

[train]
output_dir = "run"
max_steps = 60
micro_batch_size = 2
global_batch_size = 4
num_threads = 1

[lr_schedule]
lr = 3e-3
warmup_steps = 5

[checkpoint]
interval = 3

[log]
interval = 5
router_interval = 10

[eval]
interval = 20
max_batches = 2
"""


def locus(program, *arguments, cwd, code=0, stdin="", **options):
    """Runs the program and checks its exit code; returns (stdout, stderr)."""
    done = subprocess.run([program, *arguments], cwd=cwd, input=stdin, text=True, capture_output=True, timeout=300,
                          **options)
    assert done.returncode == code, f"{arguments}: exit code {done.returncode}, not {code}\n{done.stdout}{done.stderr}"
    return done.stdout, done.stderr


def make(program, folder):
    """<folder>/text.jsonl, data/ and run.toml; returns the folder as a path."""
    folder = pathlib.Path(folder)
    draw = random.Random(1)
    words = ["".join(draw.choices("abcdefghij", k=draw.randint(2, 7))) for _ in range(200)]
    lines = []
    for i in range(120):
        text = " ".join(draw.choices(words, k=draw.randint(20, 120)))
        lines.append('{"text": "%s", "domain": "%s"}' % (text, ["left", "right"][i % 2]))
    (folder / "text.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "run.toml").write_text(SETTINGS)
    locus(program, "prepare", "--output", "data", "--vocab-size", "400", "--valid-share", "0.1", "--test-share", "0.1",
          "text.jsonl", cwd=folder)
    return folder


def lines_of(run, kind):
    """Of a run's metrics."""
    return [line for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines()) if line["kind"] == kind]


def sums_of(run):
    """Of the last checkpoint: equal where the weights and the optimiser's state are."""
    checkpoint = run / "checkpoints" / (run / "checkpoints" / "latest").read_text().strip()
    files = json.loads((checkpoint / "manifest.json").read_text())["files"]
    return {name: files[name]["xxh128"] for name in ("model.safetensors", "optimizer.safetensors")}
