"""Child processes and the signals that stop us."""
import shlex
import signal
import subprocess
import sys
import time

GRACE_S = 10.0  # between asking a process to end and killing it


class Unavailable(Exception):
    """The cluster cannot be made on this machine."""

    exit_code = 77


class Stopped(Exception):
    """The user asked to stop."""


stop_signal = None  # the first one that came
wants_haste = False  # another one came after it


def on_signal(signum, _frame):
    global stop_signal, wants_haste
    wants_haste = stop_signal is not None
    stop_signal = stop_signal or signum


def stop_if_asked():
    if stop_signal is not None:
        raise Stopped


def say(text):
    print(f"emulated_cluster: {text}", file=sys.stderr, flush=True)


def call(command):
    """Runs a command of the set-up. In a session of its own, so that Ctrl-C reaches us alone."""
    stop_if_asked()
    result = subprocess.run(command, capture_output=True, text=True, start_new_session=True)
    if result.returncode:
        lines = result.stderr.strip().splitlines() or [f"exit code {result.returncode}"]
        raise Unavailable(f"{shlex.join(command)}: {lines[0]}")


def end(processes):
    """Asks the processes to end. The cleanup kills those that do not."""
    for process in processes:
        if process.poll() is None:
            process.send_signal(stop_signal or signal.SIGTERM)
    deadline = time.monotonic() + GRACE_S
    while any(process.poll() is None for process in processes):
        if wants_haste or time.monotonic() > deadline:
            return
        time.sleep(0.02)
