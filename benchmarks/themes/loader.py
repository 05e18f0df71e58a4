"""The data loader: its share of a training step, and memory whatever the size of the corpus."""
from benchmarks.batches import write_batches, zipf_tokens
from benchmarks.bench import ROOT, Bench

SMALL, LARGE = 2_000_000, 200_000_000


def run(bench: Bench) -> list[dict]:
    batches = write_batches(bench.scratch / "batches.safetensors",
                            zipf_tokens(2 * 8 * 256 + 1, 8192), 2, 8, 256, [1e-3] * 2)
    workers = [bench.ours(f"{size / 1e6:.0f}M tokens", "loader", tokens=size,
                          prefix=bench.scratch / f"corpus_{size}") for size in (SMALL, LARGE)]
    bench.measure(workers, repetitions=1, warmup=0)  # writes what is not there yet
    workers.append(bench.ours("step", "train_step", batches=batches,
                              config=ROOT / "benchmarks" / "configs" / "olmoe.toml"))
    small, large, step = bench.measure(workers).values()
    for part in bench.scratch.glob("corpus_*"):  # 400 MB
        part.unlink()

    def memory(one):
        return [value / 2**20 for value in one.series("private_bytes")]

    return [
        # Without its thread: with prefetching, the step waits even less.
        bench.row("loader: preparing a batch of 8 x 256 tokens", large.series("batch_seconds"), "s",
                  "an OLMoE-shaped float32 step", step.series(), {"at_most": 0.01},
                  [large, step]),
        bench.row(f"loader: private memory, {large.worker.name}", memory(large), "MiB",
                  small.worker.name, memory(small), {"at_most": 1.05}, [large, small])]
