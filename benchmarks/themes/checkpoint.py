"""Saving and loading about 1 GB, against safetensors; how long training stands still."""
import shutil

from benchmarks.bench import ROOT, Bench, Measured

STALL_S = 0.3
PEER = "safetensors"
BYTES = 1_060_000_000


def rate(one: Measured, key: str) -> list[float]:
    return [value / 2**20 for value in one.rate(one.facts["bytes"], key)]


def run(bench: Bench) -> list[dict]:
    shutil.rmtree(bench.scratch)
    workers = [bench.ours("Locus", "checkpoint", folder=bench.scratch,
                          config=ROOT / "benchmarks" / "configs" / "gigabyte.toml")]
    workers.append(bench.peer(PEER, "checkpoint", folder=bench.scratch / "peer", total_bytes=BYTES))
    measured = bench.measure(workers, warmup=1)
    shutil.rmtree(bench.scratch)
    locus, theirs = measured["Locus"], measured.get(PEER)
    rows = []
    for key, what in (("save_s", "save to the disk"), ("load_s", "load into a model")):
        if theirs is None:
            rows.append(bench.row(f"checkpoint, {what}: Locus", rate(locus, key), "MiB/s"))
            continue
        rows.append(bench.row(f"checkpoint, {what}: {PEER}", rate(theirs, key), "MiB/s",
                              by=[theirs]))
        rows.append(bench.row(f"checkpoint, {what}: Locus", rate(locus, key), "MiB/s", PEER,
                              rate(theirs, key), {"at_least": 1.0}, [locus, theirs]))
    rows.append(bench.row("checkpoint, training stands still", locus.series("stall_s"), "s",
                          f"{STALL_S} s", STALL_S, {"at_most": 1.0}, [locus]))
    rows.append(bench.row("checkpoint, all checksums verified", rate(locus, "checksums_s"), "MiB/s",
                          by=[locus]))
    return rows
