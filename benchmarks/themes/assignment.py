"""BASE's balanced assignment: time beside that of its layer, and the sum of scores beside the best one."""
from benchmarks.bench import Bench

SHAPE = {"tokens": 4096, "num_experts": 64, "hidden_size": 512}


def run(bench: Bench) -> list[dict]:
    measured = bench.measure([
        bench.ours("auction", "auction", **SHAPE),
        bench.ours("layer", "moe_layer", router="base_layer", top_k=1, intermediate_size=1376, **SHAPE)])
    auction, layer = measured["auction"], measured["layer"]
    what = "assignment of 4,096 tokens to 64 experts"
    return [bench.row(f"{what}: time", auction.series(), "s", "its layer, d=512, f=1376, forward and backward",
                      layer.series(), {"at_most": 0.1}, by=[auction]),
            bench.row(f"{what}: sum of scores", [auction.facts["share_of_best"]], "of the best there is",
                      "the best", 1.0, {"at_least": 0.999}, by=[auction])]
