"""Sharing 4,096 sequences out over 256 ranks, which a loader does ahead of every step."""
from benchmarks.bench import Bench

# Of 16 sequences of 4,096 tokens on each rank, at 16,000 tokens/s: some seven billion active parameters on one of
# today's large GPUs.
STEP_S = 4.0


def run(bench: Bench) -> list[dict]:
    measured = bench.measure([bench.ours("placement", "placement")])["placement"]
    return [bench.row("placement: 4,096 sequences of 32 domains to 256 ranks on 32 nodes", measured.series(), "s",
                      f"a step of {STEP_S:g} s", STEP_S, {"at_most": 0.01}, [measured])]
