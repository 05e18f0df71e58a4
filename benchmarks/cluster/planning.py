"""What counting and planning take of a step where the links cost nothing."""
from benchmarks.bench import Bench
from benchmarks.cluster.measured import Measurements, balanced_settings, ranks

NUM_RANKS, RANKS_PER_NODE = 4, 2
STEPS, ROUNDS = 8, 3
MOST = 0.05


def rows(bench: Bench, measured: Measurements) -> list[dict]:
    model = balanced_settings(bench)
    found = {"flat": [], "dedup": []}
    for number in range(min(bench.repetitions, ROUNDS)):
        for name in list(found)[::1 if number % 2 == 0 else -1]:
            found[name].append(measured.train(f"{name}-{number}", model | {
                "train.max_steps": STEPS, "comm.backend": "gloo",
                "parallel.expert_model_parallel_size": NUM_RANKS, "parallel.ranks_per_node": RANKS_PER_NODE,
                "parallel.exchange.type": name, "parallel.exchange.chunks": 1}, ranks(NUM_RANKS)))
    return [measured.row(
        f"{NUM_RANKS} ranks of one machine: counting and planning, {name}",
        [sum(one.exchange["plan_s"]) / sum(one.seconds) for one in steps], "of the step",
        "the step", 1.0, {"at_most": MOST}) for name, steps in found.items()]
