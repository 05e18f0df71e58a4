"""Training on several nodes: what crosses between them, what it costs, what is hidden. Short trainings
on emulated clusters, kept one by one: what was stopped goes on (benchmarks/cluster/measured.py)."""
from benchmarks.bench import Bench, machine, note, read_rows
from benchmarks.cluster import one_rank, planning, reduction, step_time, traffic
from benchmarks.cluster.measured import Measurements, Skipped

PARTS = {"traffic": traffic, "planning": planning, "one_rank": one_rank, "reduction": reduction,
         "step_time": step_time}


def kept_rows(part: str) -> list[dict]:
    """What an earlier start has stored of it on this machine."""
    return [row for row in read_rows().get("cluster", []) if row["part"] == part and row["machine"] == machine()]


def run(bench: Bench) -> list[dict]:
    rows = []
    if unknown := set(bench.parts or ()) - set(PARTS):
        raise SystemExit(f"the theme cluster has no part {', '.join(sorted(unknown))}; it has {', '.join(PARTS)}")
    for name, part in PARTS.items():
        if bench.parts and name not in bench.parts:
            rows += kept_rows(name)
            continue
        note(f"cluster: {name}")
        try:
            rows += part.rows(bench, Measurements(bench, name))
        except Skipped as reason:
            note(f"skipped: cluster, {name} ({reason})")
            rows += kept_rows(name)
    return rows
