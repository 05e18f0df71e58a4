"""Whole training steps, tokens/s and peak resident memory, against transformers."""
from benchmarks.batches import write_batches, zipf_tokens
from benchmarks.bench import ROOT, Bench, Measured

STEPS, SEQUENCES, LENGTH, VOCABULARY = 4, 8, 256, 8192
PEERS = {"transformers float32": ("float32", "default"),
         "transformers float32, tuned malloc": ("float32", "tuned"),
         "transformers bf16 autocast": ("autocast", "default"),
         "transformers bf16 autocast, tuned malloc": ("autocast", "tuned"),
         "transformers all bf16, tuned malloc": ("bfloat16", "tuned")}
FLOAT32, BFLOAT16 = "Locus float32", "Locus bfloat16, float32 weights"
# (ours, the peer, at least so many times its tokens/s; None: only told)
GOALS = {
    "olmoe": [(FLOAT32, "transformers float32, tuned malloc", 1.3),
              (BFLOAT16, "transformers bf16 autocast, tuned malloc", 2.0),
              (BFLOAT16, "transformers all bf16, tuned malloc", 1.5)],
    "gpt2": [(FLOAT32, "transformers float32, tuned malloc", 1.3),
             (BFLOAT16, "transformers float32, tuned malloc", 2.0),
             (BFLOAT16, "transformers bf16 autocast, tuned malloc", None)]}
# Against the default malloc, which takes less memory than the tuned one.
MEMORY = [(FLOAT32, "transformers float32"), (BFLOAT16, "transformers bf16 autocast")]


def speed_rows(bench: Bench, shape: str, measured: dict[str, Measured]) -> list[dict]:
    tokens = SEQUENCES * LENGTH
    rates = {name: one.rate(tokens) for name, one in measured.items()}
    rows = [bench.row(f"{shape} step: {name}", rates[name], "tokens/s", by=[measured[name]])
            for name in PEERS if name in rates]
    for ours, theirs, bound in GOALS[shape]:
        if theirs in rates:
            goal = {"at_least": bound} if bound else None
            rows.append(bench.row(f"{shape} step: {ours}", rates[ours], "tokens/s", theirs,
                                  rates[theirs], goal, [measured[ours], measured[theirs]]))
    if not rows:  # no peer is installed
        rows = [bench.row(f"{shape} step: {name}", rate, "tokens/s", by=[measured[name]])
                for name, rate in rates.items()]
    return rows


def memory_rows(bench: Bench, shape: str, measured: dict[str, Measured]) -> list[dict]:
    peaks = {name: [max(one.series("peak_rss_bytes")) / 2**20] for name, one in measured.items()}
    rows = []
    for ours, theirs in MEMORY:
        if theirs in peaks:
            rows.append(bench.row(f"{shape} step, peak resident memory: {ours}", peaks[ours], "MiB",
                                  theirs, peaks[theirs], {"at_most": 0.75},
                                  by=[measured[ours], measured[theirs]]))
    return rows


def compare(bench: Bench, shape: str) -> list[dict]:
    config = ROOT / "benchmarks" / "configs" / f"{shape}.toml"
    tokens = zipf_tokens(STEPS * SEQUENCES * LENGTH + 1, VOCABULARY)
    batches = write_batches(bench.scratch / "batches.safetensors", tokens, STEPS, SEQUENCES, LENGTH,
                            [1e-3] * STEPS)
    workers = [bench.ours(FLOAT32, "train_step", config=config, batches=batches),
               bench.ours(BFLOAT16, "train_step", config=config, batches=batches,
                          train__dtype="bfloat16")]
    workers += [bench.peer(name, "train_step", malloc, config=config, batches=batches,
                           precision=precision) for name, (precision, malloc) in PEERS.items()]
    measured = bench.measure(workers)
    return speed_rows(bench, shape, measured) + memory_rows(bench, shape, measured)


def run(bench: Bench) -> list[dict]:
    return [row for shape in GOALS for row in compare(bench, shape)]
