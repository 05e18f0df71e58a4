"""Starts a command as ranks of one machine, where a launcher would be too much: NUM COMMAND...

    python3 tools/ranks.py 2 build/locus train --config configs/demo.toml

The ranks find each other by the variables that torchrun sets. The first one has our standard input and
output. If one ends with an error, the others are told to end (SIGTERM), and killed if they do not. Ctrl-C
reaches all of them by the terminal.
"""
from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time

GRACE_S = 30  # for a last checkpoint


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def end(ranks: list[subprocess.Popen]) -> None:
    for rank in ranks:
        rank.terminate()  # does nothing to those that have ended
    until = time.monotonic() + GRACE_S
    for rank in ranks:
        try:
            rank.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            rank.kill()
            rank.wait()


def main() -> int:
    num, command = int(sys.argv[1]), sys.argv[2:]
    shared = {"WORLD_SIZE": str(num), "LOCAL_WORLD_SIZE": str(num), "MASTER_ADDR": "127.0.0.1",
              "MASTER_PORT": str(free_port())}
    ranks: list[subprocess.Popen] = []
    for rank in range(num):
        own = None if rank == 0 else subprocess.DEVNULL
        ranks.append(subprocess.Popen(command, stdin=own, stdout=own, env=os.environ | shared | {
            "RANK": str(rank), "LOCAL_RANK": str(rank)}))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _: [rank.send_signal(number) for rank in ranks])
    while any(rank.poll() is None for rank in ranks) and not any(rank.poll() for rank in ranks):
        time.sleep(0.05)
    failed = next((rank.returncode for rank in ranks if rank.poll()), 0)
    end(ranks)
    return 128 - failed if failed < 0 else failed  # as a shell says it


if __name__ == "__main__":
    sys.exit(main())
