#!/usr/bin/env python3
"""Runs the benchmarks and keeps their rows in benchmarks/results/: `make bench`, `make goals`."""
from __future__ import annotations

import argparse
import importlib
import os
import pathlib
import platform
import signal
import subprocess
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
from benchmarks import bench  # noqa: E402: the tree first

THEMES = ("start", "moe_layer", "gate", "train_step", "roofline", "generate", "tokenize", "loader", "checkpoint",
          "placement", "assignment")
# Of many ranks: run only when named, so that all the others together stay within their time.
NAMED_THEMES = ("exchange", "cluster")
PEERS = ("torch", "transformers", "tokenizers", "sentencepiece", "safetensors")


def find_python() -> str:
    local = bench.ROOT / ".venv" / "bin" / "python"
    return str(local) if local.exists() else sys.executable


def versions(python: str) -> str:
    script = ("import importlib.metadata as m, importlib.util as u, sys\n"
              "for p in sys.argv[1:]: print(p, m.version(p) if u.find_spec(p) else '(missing)')")
    shown = subprocess.check_output([python, "-c", script, *PEERS], text=True)
    return ", ".join(shown.splitlines())


def header(build: pathlib.Path, python: str) -> str:
    program = build / "locus"
    ours = (subprocess.run([program, "--version"], capture_output=True, text=True).stdout.strip()
            if program.exists() else f"{program} is not there")
    return "\n".join([
        f"machine  {bench.machine()}; {platform.system()} {platform.release()}, "
        f"{' '.join(platform.libc_ver())}",
        f"threads  {bench.THREADS}, OMP_WAIT_POLICY=passive; load before the start "
        f"{os.getloadavg()[0]:.1f}",
        f"locus    {' '.join(ours.split())}",
        f"peers    {versions(python)} (Python {platform.python_version()})",
        *(f"malloc   {name}: {text}" for name, text in bench.MALLOC_TEXT.items())])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--theme", help=f"one of them alone: {', '.join(THEMES)}; "
                        f"only when named: {', '.join(NAMED_THEMES)}")
    parser.add_argument("--build", default="build", help="folder of locus and locus_bench")
    parser.add_argument("--python", default=find_python(), help="interpreter that has the peers")
    parser.add_argument("--repetitions", type=int, default=7, help="rounds after the warm-up")
    parser.add_argument("--fresh", action="store_true",
                        help="cluster: forget what earlier starts have measured")
    parser.add_argument("--parts", nargs="+", help="of the theme `cluster`, these alone")
    parser.add_argument("--baseline", type=pathlib.Path,
                        help="cluster: folder of an older locus, to compare one rank with")
    parser.add_argument("--goals", action="store_true", help="only print the rows that are stored")
    arguments = parser.parse_args()
    if arguments.goals:
        print(bench.table(bench.read_rows()))
        return 0
    if arguments.theme and arguments.theme not in THEMES + NAMED_THEMES:
        parser.error(f"no theme {arguments.theme}; known: {', '.join(THEMES + NAMED_THEMES)}")

    # As Ctrl-C does: what a theme has started must end with it.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    build = pathlib.Path(arguments.build).resolve()
    print(header(build, arguments.python), flush=True)
    done, failed = {}, []
    for name in [arguments.theme] if arguments.theme else THEMES:
        begin = time.monotonic()
        theme = importlib.import_module(f"benchmarks.themes.{name}")
        try:
            rows = theme.run(bench.Bench(name, build, arguments.python, arguments.repetitions,
                                         fresh=arguments.fresh, baseline=arguments.baseline,
                                         parts=arguments.parts))
        except RuntimeError as error:  # a worker failed: the other themes are none the worse
            bench.note(f"{name}: {error}\n{name}: its stored rows stay as they were")
            failed.append(name)
            continue
        bench.write_rows(name, rows)
        done[name] = rows
        bench.note(f"{name}: {time.monotonic() - begin:.0f} s")
    print(bench.table(done))
    if failed:
        bench.note(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
