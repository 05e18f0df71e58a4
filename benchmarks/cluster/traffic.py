"""Bytes and messages between nodes, of each exchange: counted, so any number of cores will do."""
from benchmarks.bench import Bench
from benchmarks.cluster.measured import NUM_NODES, NUM_RANKS, RANKS_PER_NODE, Measurements, balanced_settings, ranks

STEPS = 4
EXCHANGES = ("flat", "hierarchical", "dedup")
WHERE = f"{NUM_NODES} nodes x {RANKS_PER_NODE}, E = 16, k = 4"


def rows(bench: Bench, measured: Measurements) -> list[dict]:
    model = balanced_settings(bench)
    found = {name: measured.train(name, model | {
        "train.max_steps": STEPS, "parallel.expert_model_parallel_size": NUM_RANKS,
        "parallel.exchange.type": name, "parallel.exchange.chunks": 1, "comm.backend": "gloo",
        "comm.emulate.nodes": NUM_NODES}, ranks(NUM_RANKS)).exchange for name in EXCHANGES}
    out = []
    for name in EXCHANGES:
        sent, least = found[name]["inter_bytes"], found[name]["least_inter_bytes"]
        out.append(measured.row(
            f"{WHERE}: rows between nodes a step, {name}", [count / 1e6 for count in sent], "MB",
            "the least for the same routing", [count / 1e6 for count in least],
            {"at_most": 1.0} if name == "dedup" else None, sent_bytes=sent, least_bytes=least))
    for name in EXCHANGES[1:]:
        out.append(measured.row(
            f"{WHERE}: messages to the experts' nodes a step, {name}", found[name]["inter_messages"], "messages",
            "flat", found["flat"]["inter_messages"],
            {"at_most": 1 / RANKS_PER_NODE} if name == "hierarchical" else None))
    return out
