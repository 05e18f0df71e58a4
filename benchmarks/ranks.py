"""Starts a command as ranks of one machine, for what needs no launcher: NUM COMMAND...

The first rank has our standard input and output. If one fails, the others are stopped.
"""
from __future__ import annotations

import os
import socket
import subprocess
import sys
import time


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main() -> int:
    num, command = int(sys.argv[1]), sys.argv[2:]
    shared = {"WORLD_SIZE": str(num), "LOCAL_WORLD_SIZE": str(num), "MASTER_ADDR": "127.0.0.1",
              "MASTER_PORT": str(free_port())}
    ranks = []
    for rank in range(num):
        own = None if rank == 0 else subprocess.DEVNULL
        ranks.append(subprocess.Popen(command, stdin=own, stdout=own, env=os.environ | shared | {
            "RANK": str(rank), "LOCAL_RANK": str(rank)}))
    while any(rank.poll() is None for rank in ranks) and not any(rank.poll() for rank in ranks):
        time.sleep(0.05)
    failed = [rank.returncode for rank in ranks if rank.poll()]
    for rank in ranks:
        if rank.poll() is None:
            rank.kill()
            rank.wait()
    return abs(failed[0]) if failed else 0


if __name__ == "__main__":
    sys.exit(main())
