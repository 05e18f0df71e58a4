"""One MoE layer, forward and backward, over the bare matrix products of its experts."""
from benchmarks.bench import Bench

SHAPES = {"coarse": {"num_experts": 8, "top_k": 2, "intermediate_size": 1376},
          "fine": {"num_experts": 64, "top_k": 8, "intermediate_size": 256}}
GOALS = {("coarse", "float32"): 1.05, ("coarse", "bfloat16"): 1.08,
         ("fine", "float32"): 1.08, ("fine", "bfloat16"): 1.10}
STRETCH = {"fine": {"at_most": 1.0}}
PEERS = {"transformers grouped_mm": ("grouped_mm", "default"),
         "transformers grouped_mm, tuned malloc": ("grouped_mm", "tuned"),
         "transformers eager, tuned malloc": ("eager", "tuned")}
GEMMS = "bare expert GEMMs"
PEAK = "one product of 2048 x 2048 matrices"


def compare(bench: Bench, shape: str, dtype: str) -> list[dict]:
    settings = SHAPES[shape] | {"dtype": dtype}
    workers = [bench.ours(PEAK, "square_product", dtype=dtype),
               bench.ours(GEMMS, "expert_gemms", **settings),
               bench.ours("Locus", "moe_layer", **settings)]
    if dtype != "float32":
        workers.append(bench.ours("Locus, float32 weights", "moe_layer",
                                  weights_dtype="float32", **settings))
    workers += [bench.peer(name, "moe_block", malloc, experts=experts, **settings)
                for name, (experts, malloc) in PEERS.items()]
    measured = bench.measure(workers)
    peak, gemms = measured.pop(PEAK), measured.pop(GEMMS)
    where = f"{shape} {dtype}"
    rows = [bench.row(f"{where}: {GEMMS}", gemms.series("gflops"), "GFLOP/s",
                      PEAK, peak.series("gflops"), by=[gemms])]
    for name, one in measured.items():
        goal = {"at_most": GOALS[shape, dtype]} if name == "Locus" else None
        more = {"stretch": STRETCH[shape]} if goal and shape in STRETCH else {}
        rows.append(bench.row(f"{where}: {name}", one.series(), "s", GEMMS, gemms.series(), goal,
                              by=[one], **more))
    return rows


def run(bench: Bench) -> list[dict]:
    return [row for shape, dtype in GOALS for row in compare(bench, shape, dtype)]
