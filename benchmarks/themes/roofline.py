"""Each part of a step against what the machine can do: operations over peak, bytes over bandwidth."""
import statistics

from benchmarks.bench import ROOT, Bench
from benchmarks.learning import chart

PARTS = {"projections": "attention's projections", "rotation": "rotation", "attention": "attention (libtorch)",
         "norm": "RMSNorm", "experts": "experts", "permutation": "to the experts and back",
         "loss": "output and loss", "adamw": "AdamW (libtorch)"}
PICTURE = ROOT / "docs" / "images" / "roofline.svg"


def run(bench: Bench) -> list[dict]:
    workers = [bench.ours("peak", "square_product", dtype="float32"),
               bench.ours("bandwidth", "step_part", part="stream")]
    workers += [bench.ours(name, "step_part", part=part) for part, name in PARTS.items()]
    measured = bench.measure(workers)
    peak = statistics.median(measured.pop("peak").series("gflops")) * 1e9
    stream = measured.pop("bandwidth")
    bandwidth = statistics.median(stream.rate(stream.facts["bytes"]))
    rows = [bench.row("roofline: memory, read and written in place", [bandwidth / 1e9], "GB/s", by=[stream])]
    points = {}
    for name, one in measured.items():
        flops, bytes_ = one.facts["flops"], one.facts["bytes"]
        floor = max(flops / peak, bytes_ / bandwidth)
        seconds = one.series()
        points[name] = (flops / bytes_, flops / statistics.median(seconds))
        rows.append(bench.row(f"roofline: {name}", [flops / value / 1e9 for value in seconds], "GFLOP/s",
                              "its floor: operations over peak or bytes over bandwidth",
                              [flops / floor / 1e9] * len(seconds), by=[one], intensity=flops / bytes_))
    PICTURE.write_text(chart.roofline("Parts of a step, float32, two threads", peak, bandwidth, points),
                       encoding="utf-8")
    return rows
