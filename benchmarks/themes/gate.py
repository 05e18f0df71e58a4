"""The pooled gate of LocMoE, which has no weights, against a dense one."""
from benchmarks.bench import Bench

SHAPE = {"tokens": 1024, "hidden_size": 4096, "num_experts": 64}


def run(bench: Bench) -> list[dict]:
    measured = bench.measure([bench.ours(gate, "gate", gate=gate, **SHAPE) for gate in ("pooled", "dense")])
    pooled, dense = measured["pooled"], measured["dense"]
    return [bench.row("gate, d=4096, n=64, T=1024, forward and backward: pooled", pooled.series(), "s",
                      "a dense gate", dense.series(), {"at_most": 0.2}, by=[pooled])]
