"""Starts a command as ranks of one machine, where a launcher would be too much.

    python3 tools/ranks.py 2 build/locus train --config configs/demo.toml

The ranks find each other by the variables that torchrun sets. The first one has our standard input and
output. If one ends with an error, the others are told to end (SIGTERM), and killed if they do not.
"""
from __future__ import annotations

import argparse
import os
import shutil
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


class Ranks:
    """In sessions of their own: a signal reaches them once, by us, however many of us it was sent to."""

    def __init__(self):
        self.processes: list[subprocess.Popen] = []
        self.told = False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda number, _: self.tell(number))

    def start(self, num: int, command: list[str]) -> None:
        shared = {"WORLD_SIZE": str(num), "LOCAL_WORLD_SIZE": str(num), "MASTER_ADDR": "127.0.0.1",
                  "MASTER_PORT": str(free_port())}
        for rank in range(num):
            own = None if rank == 0 else subprocess.DEVNULL
            self.processes.append(subprocess.Popen(
                command, stdin=own, stdout=own, start_new_session=True,
                env=os.environ | shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}))

    def tell(self, number: int) -> None:
        if not self.told:
            self.told = True
            for one in self.processes:
                one.send_signal(number)  # does nothing to those that have ended

    def wait(self) -> int:
        """The first exit code that is not 0, as a shell says it."""
        while any(one.poll() is None for one in self.processes) and not any(one.poll() for one in self.processes):
            time.sleep(0.05)
        failed = next((one.returncode for one in self.processes if one.poll()), 0)
        return 128 - failed if failed < 0 else failed

    def end(self) -> None:
        self.tell(signal.SIGTERM)
        until = time.monotonic() + GRACE_S
        for one in self.processes:
            try:
                one.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                one.kill()
                one.wait()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("num", type=int, help="of ranks")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    if arguments.num < 1 or not arguments.command:
        parser.error("a number of ranks, at least 1, and a command")
    if shutil.which(arguments.command[0]) is None:
        print(f"ranks: {arguments.command[0]} is not there, or cannot be executed", file=sys.stderr)
        return 127
    ranks = Ranks()
    try:
        ranks.start(arguments.num, arguments.command)
        return ranks.wait()
    finally:
        ranks.end()


if __name__ == "__main__":
    sys.exit(main())
