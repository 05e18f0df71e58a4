"""The exchange of rows between ranks, over the bare calls of the transports' own libraries."""
import shutil
import sys

from benchmarks.bench import ROOT, Bench, Measured, note

NUM_RANKS = 4
SIZES = [4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20]
SMALL = 16 << 10  # up to here the time of a message counts, above its bandwidth
LAUNCHERS = {
    "mpi": ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", str(NUM_RANKS)],
    "gloo": [sys.executable, str(ROOT / "tools" / "ranks.py"), str(NUM_RANKS)]}


def size_text(num_bytes: int) -> str:
    return f"{num_bytes >> 20} MiB" if num_bytes >= 1 << 20 else f"{num_bytes >> 10} KiB"


def row(bench: Bench, backend: str, measured: Measured, num_bytes: int) -> dict:
    what = f"{backend}, {NUM_RANKS} ranks: {size_text(num_bytes)} to each"
    ours, bare = (measured.series(f"{who}_{num_bytes}") for who in ("ours", "bare"))
    if num_bytes <= SMALL:
        unit, goal = "us", {"at_most": 1.05}
        values, base = ([seconds * 1e6 for seconds in series] for series in (ours, bare))
    else:
        unit, goal = "MB/s", {"at_least": 0.95}
        sent = num_bytes * (NUM_RANKS - 1) / 1e6
        values, base = ([sent / seconds for seconds in series] for series in (ours, bare))
    return bench.row(what, values, unit, measured.facts["bare"], base, goal, by=[measured])


def run(bench: Bench) -> list[dict]:
    rows = []
    for backend, launcher in LAUNCHERS.items():
        if backend == "mpi" and not (shutil.which("mpirun") and (bench.build / "locus-mpi.so").exists()):
            note("skipped: mpi (no mpirun, or Locus was built without MPI)")
            continue
        worker = bench.ranks(backend, launcher, "exchange", backend=backend, bytes=SIZES)
        measured = bench.measure([worker])[backend]
        rows += [row(bench, backend, measured, num_bytes) for num_bytes in SIZES]
    return rows
